#include "common/base/id.h"

#include <sys/random.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace thaw {

std::string HexEncode(absl::string_view bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const char c : bytes) {
    const unsigned char byte = static_cast<unsigned char>(c);
    text.push_back(kDigits[byte >> 4]);
    text.push_back(kDigits[byte & 15]);
  }
  return text;
}

std::string RandomId() {
  char bytes[16];
  // 16 bytes are never cut short once the kernel's pool is ready; failing here means no safe
  // identity exists.
  if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes)) std::abort();
  return HexEncode(absl::string_view(bytes, sizeof(bytes)));
}

std::string NewId(absl::string_view prefix) {
  return absl::StrCat(prefix, "-", RandomId().substr(0, 16));
}

}  // namespace thaw
