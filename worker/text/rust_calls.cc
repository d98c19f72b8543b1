#include "worker/text/rust_calls.h"

#include <mutex>

#include "worker/text/thaw_text.h"

namespace thaw {

void InitRust() {
  static std::once_flag once;
  std::call_once(once, thaw_text_init);
}

absl::Status StatusFromRust(int32_t status, char** message) {
  if (status == 0) return absl::OkStatus();
  const std::string text = *message ? *message : "unknown error";
  thaw_text_free_message(*message);
  switch (status) {
    case 1:
      return absl::InvalidArgumentError(text);
    case 2:
      return absl::FailedPreconditionError(text);
    case 4:
      return absl::ResourceExhaustedError(text);
    case 5:
      return absl::UnavailableError(text);
    default:
      return absl::InternalError(text);
  }
}

const uint8_t* Bytes(std::string_view text) {
  static constexpr uint8_t kEmpty = 0;
  return text.empty() ? &kEmpty : reinterpret_cast<const uint8_t*>(text.data());
}

std::string TakeBytes(uint8_t* bytes, size_t len) {
  std::string text(reinterpret_cast<const char*>(bytes), len);
  thaw_text_free_bytes(bytes, len);
  return text;
}

}  // namespace thaw
