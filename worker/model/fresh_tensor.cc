#include "worker/model/fresh_tensor.h"

#include <cmath>
#include <random>

namespace thaw {

torch::Tensor NormalTensor(const std::vector<int64_t>& shape, double deviation, uint64_t seed,
                           uint64_t stream) {
  // The standard fixes this generator's output, but not std::normal_distribution's: Box-Muller.
  std::mt19937_64 generator(seed ^ (stream * 0x9e3779b97f4a7c15));
  const auto uniform = [&] { return (static_cast<double>(generator() >> 11) + 0.5) * 0x1p-53; };
  torch::Tensor tensor = at::empty(shape, torch::kFloat32);
  float* out = tensor.data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    out[i] = static_cast<float>(deviation * radius * std::cos(2 * M_PI * uniform()));
  }
  return tensor;
}

}  // namespace thaw
