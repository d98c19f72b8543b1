#include "common/base/edit_distance.h"

#include <algorithm>
#include <vector>

namespace thaw {
namespace {

// The distances of all of `a` to each beginning of `b`, or with `anywhere` to the best part of `b`
// that ends there.
std::vector<size_t> LastRow(absl::string_view a, absl::string_view b, bool anywhere) {
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

}  // namespace

size_t EditDistance(absl::string_view a, absl::string_view b) {
  return LastRow(a, b, /*anywhere=*/false).back();
}

size_t EditDistanceWithin(absl::string_view part, absl::string_view text) {
  const std::vector<size_t> row = LastRow(part, text, /*anywhere=*/true);
  return *std::min_element(row.begin(), row.end());
}

}  // namespace thaw
