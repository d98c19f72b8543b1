#include "common/base/clean_text.h"

#include <cstdint>

namespace thaw {
namespace {

// Bytes of the UTF-8 character at the front of `text`, 0 if there is none. Shortest form only, no
// surrogates, as protobuf checks it.
size_t CharacterBytes(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  const size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < size) return 0;
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  const uint8_t second = byte(1);
  const bool overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
  const bool surrogate = first == 0xed && second >= 0xa0;
  const bool beyond = first == 0xf4 && second >= 0x90;
  return overlong || surrogate || beyond ? 0 : size;
}

// ASCII's and Latin-1's, which terminals obey too.
bool IsControl(absl::string_view text) {
  const auto first = static_cast<uint8_t>(text[0]);
  if (first == 0xc2) return static_cast<uint8_t>(text[1]) < 0xa0;
  return (first < ' ' && first != '\t') || first == 0x7f;
}

}  // namespace

std::string CleanText(absl::string_view text, size_t max_bytes) {
  std::string clean;
  while (!text.empty()) {
    const size_t size = CharacterBytes(text);
    const size_t taken = size == 0 ? 1 : size;
    if (clean.size() + taken > max_bytes) break;
    if (size == 0) {
      clean += '?';
    } else if (IsControl(text)) {
      clean += ' ';
    } else {
      clean.append(text.data(), size);
    }
    text.remove_prefix(taken);
  }
  return clean;
}

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const size_t size = CharacterBytes(absl::string_view(text.data(), text.size()));
    if (size == 0) return false;
    text.remove_prefix(size);
  }
  return true;
}

}  // namespace thaw
