#include "worker/text/stream_decoder.h"

#include <algorithm>
#include <span>
#include <string_view>
#include <utility>

#include "common/base/status.h"

namespace thaw {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
// How long the window grows before what is no longer needed is forgotten.
constexpr size_t kWindow = 16;

bool IsByteToken(std::string_view token) {
  return token.size() == 6 && token.substr(0, 3) == "<0x" && token[5] == '>';
}

bool IsSpecial(const Tokenizer& tokenizer, int32_t id) {
  const std::vector<AddedToken>& added = tokenizer.added_tokens();
  const auto token =
      std::lower_bound(added.begin(), added.end(), id,
                       [](const AddedToken& other, int32_t wanted) { return other.id < wanted; });
  return token != added.end() && token->id == id && token->special;
}

}  // namespace

absl::StatusOr<std::string> StreamDecoder::Push(int32_t id) {
  // Decode leaves these out before it looks at neighbours: they do not even end a run of bytes.
  if (skip_special_tokens_ && IsSpecial(tokenizer_, id)) return "";
  window_.push_back(id);
  bytes_run_ = IsByteToken(tokenizer_.IdToToken(id).value_or("")) ? bytes_run_ + 1 : 0;
  if (bytes_run_ > 0) return "";
  THAW_ASSIGN_OR_RETURN(std::string text, tokenizer_.Decode(window_, skip_special_tokens_));
  // The last one may be half a code point; those before it stay, whatever comes.
  const bool whole = !text.ends_with(kReplacement);
  if (!whole) text.resize(text.size() - kReplacement.size());
  THAW_ASSIGN_OR_RETURN(std::string piece, Give(std::move(text)));
  if (whole && window_.size() >= kWindow) THAW_RETURN_IF_ERROR(Forget());
  return piece;
}

absl::StatusOr<std::string> StreamDecoder::Finish() {
  THAW_ASSIGN_OR_RETURN(std::string text, tokenizer_.Decode(window_, skip_special_tokens_));
  THAW_ASSIGN_OR_RETURN(std::string piece, Give(std::move(text)));
  window_.clear();
  given_.clear();
  bytes_run_ = 0;
  return piece;
}

absl::StatusOr<std::string> StreamDecoder::Give(std::string text) {
  if (!text.starts_with(given_)) {
    return absl::FailedPreconditionError(
        "this tokenizer cannot be decoded piece by piece: its decoder changes earlier text");
  }
  std::string piece = text.substr(given_.size());
  given_ = std::move(text);
  return piece;
}

// Shortens window_ to the fewest last ids that have text by themselves, so that what decoders do to
// the first token of a text is not done to the next one.
absl::Status StreamDecoder::Forget() {
  for (size_t keep = 4; keep < window_.size(); keep *= 2) {
    const std::span<const int32_t> last(window_.end() - static_cast<ptrdiff_t>(keep),
                                        window_.end());
    THAW_ASSIGN_OR_RETURN(std::string text, tokenizer_.Decode(last, skip_special_tokens_));
    // A window that began inside of a code point would decode to something else.
    if (text.empty() || !given_.ends_with(text)) continue;
    window_.erase(window_.begin(), window_.end() - static_cast<ptrdiff_t>(keep));
    given_ = std::move(text);
    break;
  }
  return absl::OkStatus();
}

}  // namespace thaw
