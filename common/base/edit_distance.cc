#include "common/base/edit_distance.h"

#include <algorithm>
#include <vector>

namespace thaw {

size_t EditDistanceWithin(absl::string_view part, absl::string_view text) {
  const std::vector<size_t> row = EditDistances(part, text, /*anywhere=*/true);
  return *std::min_element(row.begin(), row.end());
}

std::string NearestName(absl::string_view name, const std::vector<std::string>& names) {
  std::string nearest;
  size_t least = std::max<size_t>(1, name.size() / 3) + 1;
  for (const std::string& known : names) {
    const size_t distance = EditDistance(name, absl::string_view(known));
    if (distance >= least) continue;
    least = distance;
    nearest = known;
  }
  return nearest;
}

}  // namespace thaw
