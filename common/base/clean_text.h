#pragma once

#include <string>
#include <string_view>

#include "absl/strings/string_view.h"

namespace thaw {

// `text` as a proto3 string may hold it and a terminal may show it: at most `max_bytes`, whole
// UTF-8 characters; control characters become spaces (tabs stay), bytes that are not UTF-8 become
// '?'. One bad byte in a request would make the server refuse all of it.
std::string CleanText(absl::string_view text, size_t max_bytes);

// Whether all of `text` is UTF-8: shortest forms only, no surrogates.
bool IsUtf8(std::string_view text);

}  // namespace thaw
