#include "worker/model/alibi.h"

#include <bit>
#include <cmath>

namespace thaw {

std::vector<double> AlibiSlopes(int64_t heads) {
  const auto regular = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(heads)));
  std::vector<double> slopes;
  for (int64_t i = 1; i <= regular; ++i) {
    slopes.push_back(std::exp2(-8.0 * static_cast<double>(i) / static_cast<double>(regular)));
  }
  for (int64_t i = 1; static_cast<int64_t>(slopes.size()) < heads; i += 2) {
    slopes.push_back(std::exp2(-4.0 * static_cast<double>(i) / static_cast<double>(regular)));
  }
  return slopes;
}

torch::Tensor AlibiBias(int64_t heads, int64_t span) {
  const torch::Tensor slopes = torch::tensor(AlibiSlopes(heads), torch::kFloat64).unsqueeze(1);
  return (slopes * at::arange(1 - span, span, torch::kFloat64)).to(torch::kFloat32);
}

}  // namespace thaw
