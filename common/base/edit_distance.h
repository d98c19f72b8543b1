// How far apart two texts are, for "did you mean".
#pragma once

#include <cstddef>

#include "absl/strings/string_view.h"

namespace thaw {

// Levenshtein's: the least number of bytes to insert, remove or replace.
size_t EditDistance(absl::string_view a, absl::string_view b);

// The same to the part of `text` that is nearest to `part` (Sellers 1980).
size_t EditDistanceWithin(absl::string_view part, absl::string_view text);

}  // namespace thaw
