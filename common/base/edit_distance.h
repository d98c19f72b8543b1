// How alike two names or texts are.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace thaw {

// Levenshtein's: the least number of elements to insert, remove or replace. Time grows with the
// product of both sizes, memory with the second.
template <typename Sequence>
size_t EditDistance(const Sequence& a, const Sequence& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

// The first of `names` that is nearest to `name`; empty if none differs in a third of it or less.
std::string NearestName(absl::string_view name, const std::vector<std::string>& names);

}  // namespace thaw
