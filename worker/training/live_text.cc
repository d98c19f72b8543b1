#include "worker/training/live_text.h"

#include <algorithm>
#include <utility>

namespace thaw {
namespace {

constexpr double kSecondsBetween = 0.1;
constexpr size_t kLongestPiece = 4096;
constexpr int64_t kMostLiveBytes = 1 << 20;

// The length of the longest beginning of `text` of at most `limit` bytes that ends between two
// characters.
size_t WholeCharacters(const std::string& text, size_t limit) {
  if (text.size() <= limit) return text.size();
  size_t end = limit;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return end;
}

}  // namespace

void LiveText::Add(int64_t row, absl::string_view text, int64_t tokens) {
  if (text.empty() || bytes_ >= kMostLiveBytes) return;
  const auto [found, is_new] = rows_.try_emplace(row);
  if (is_new) turns_.push_back(row);
  found->second.text.append(text.data(), text.size());
  found->second.tokens = tokens;
}

void LiveText::Done(int64_t row, absl::string_view finish_reason, int64_t tokens) {
  if (bytes_ >= kMostLiveBytes) return;
  Row& told = rows_[row];
  told.done = true;
  told.finish_reason = std::string(finish_reason);
  told.tokens = tokens;
  turns_.push_front(row);
}

std::map<int64_t, LiveText::Row>::iterator LiveText::NextInTurn() {
  while (!turns_.empty()) {
    const auto found = rows_.find(turns_.front());
    turns_.pop_front();
    if (found != rows_.end()) return found;
  }
  return rows_.begin();
}

void LiveText::Send(std::map<int64_t, Row>::iterator found) {
  const int64_t row = found->first;
  Row& told = found->second;
  v1::Event event;
  v1::GeneratedText& piece = *event.mutable_generated_text();
  const size_t length = WholeCharacters(told.text, kLongestPiece);
  piece.set_row(row);
  piece.set_text(told.text.substr(0, length));
  piece.set_tokens(told.tokens);
  told.text.erase(0, length);
  bytes_ += static_cast<int64_t>(length);
  if (told.text.empty()) {
    piece.set_done(told.done);
    piece.set_finish_reason(told.finish_reason);
    rows_.erase(found);
  } else {
    turns_.push_back(row);
  }
  emit_(std::move(event));
}

void LiveText::Tick(double now) {
  if (rows_.empty() || now < next_) return;
  next_ = now + kSecondsBetween;
  Send(NextInTurn());
}

void LiveText::Finish() {
  while (!rows_.empty() && bytes_ < kMostLiveBytes) Send(NextInTurn());
}

}  // namespace thaw
