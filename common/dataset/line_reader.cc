#include "common/dataset/line_reader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/status.h"

namespace thaw {
namespace {

constexpr size_t kReadBytes = 256 << 10;

}  // namespace

absl::StatusOr<std::unique_ptr<LineReader>> LineReader::Open(const std::string& path,
                                                             int64_t max_line_bytes) {
  THAW_ASSIGN_OR_RETURN(FileInput input, FileInput::Open(path));
  std::unique_ptr<LineReader> reader(new LineReader(std::move(input), max_line_bytes));
  THAW_RETURN_IF_ERROR(reader->Fill().status());
  if (std::string_view(reader->buffer_.data(), reader->size_).starts_with(kUtf8Mark)) {
    reader->byte_order_mark_ = true;
    reader->begin_ = kUtf8Mark.size();
  }
  return reader;
}

LineReader::LineReader(FileInput input, int64_t max_line_bytes)
    : input_(std::move(input)),
      max_line_bytes_(max_line_bytes),
      // A whole line, its line feed and the next read fit at once.
      buffer_(static_cast<size_t>(max_line_bytes) + 1 + kReadBytes) {}

absl::StatusOr<bool> LineReader::Fill() {
  std::memmove(buffer_.data(), buffer_.data() + begin_, size_ - begin_);
  buffer_offset_ += static_cast<int64_t>(begin_);
  size_ -= begin_;
  begin_ = 0;
  const size_t wanted = std::min(kReadBytes, buffer_.size() - size_);
  THAW_ASSIGN_OR_RETURN(const size_t got, input_.Read(buffer_.data() + size_, wanted));
  size_ += got;
  return got > 0;
}

absl::StatusOr<bool> LineReader::SkipLine(Line* line) {
  line->too_long = true;
  line->text = {};
  while (true) {
    const void* end = std::memchr(buffer_.data() + begin_, '\n', size_ - begin_);
    if (end != nullptr) {
      begin_ = static_cast<size_t>(static_cast<const char*>(end) - buffer_.data()) + 1;
      return true;
    }
    begin_ = size_;
    THAW_ASSIGN_OR_RETURN(const bool more, Fill());
    if (!more) return true;
  }
}

absl::StatusOr<bool> LineReader::Next(Line* line) {
  size_t searched = 0;  // bytes after begin_ known to hold no line feed
  while (true) {
    const char* const start = buffer_.data() + begin_;
    const size_t available = size_ - begin_;
    const void* const end = std::memchr(start + searched, '\n', available - searched);
    const size_t length = end ? static_cast<const char*>(end) - start : available;
    const bool too_long = static_cast<int64_t>(length) > max_line_bytes_;
    bool at_end = false;
    if (end == nullptr && !too_long) {
      searched = available;
      THAW_ASSIGN_OR_RETURN(const bool more, Fill());
      if (more) continue;
      if (available == 0) return false;
      at_end = true;
    }
    line->number = ++lines_;
    line->byte_offset = buffer_offset_ + static_cast<int64_t>(begin_);
    if (too_long) return SkipLine(line);
    line->too_long = false;
    line->text = {buffer_.data() + begin_, length};
    begin_ += length + (at_end ? 0 : 1);
    return true;
  }
}

}  // namespace thaw
