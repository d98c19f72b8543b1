// How alike two names or texts are.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/strings/string_view.h"

namespace thaw {

// The distances of all of `a` to each beginning of `b`, or with `anywhere` to the best part of `b`
// that ends there.
template <typename Sequence>
std::vector<size_t> EditDistances(const Sequence& a, const Sequence& b, bool anywhere) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = anywhere ? 0 : j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row;
}

// Levenshtein's: the least number of elements to insert, remove or replace. Time grows with the
// product of both sizes, memory with the second.
inline size_t EditDistance(absl::string_view a, absl::string_view b) {
  return EditDistances(a, b, /*anywhere=*/false).back();
}
template <typename Sequence>
requires(!std::is_convertible_v<const Sequence&, absl::string_view>) size_t
    EditDistance(const Sequence& a, const Sequence& b) {
  return EditDistances(a, b, /*anywhere=*/false).back();
}

// The same, in bytes, to the part of `text` that is nearest to `part` (Sellers 1980).
size_t EditDistanceWithin(absl::string_view part, absl::string_view text);

// The first of `names` that is nearest to `name`; empty if none differs in a third of it or less.
std::string NearestName(absl::string_view name, const std::vector<std::string>& names);

}  // namespace thaw
