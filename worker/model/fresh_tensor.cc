#include "worker/model/fresh_tensor.h"

#include <cmath>
#include <random>

namespace thaw {

namespace {

// The standard fixes this generator's output, but not that of its distributions.
class Uniform {
 public:
  Uniform(uint64_t seed, uint64_t stream) : generator_(seed ^ (stream * 0x9e3779b97f4a7c15)) {}
  // In (0, 1).
  double operator()() { return (static_cast<double>(generator_() >> 11) + 0.5) * 0x1p-53; }

 private:
  std::mt19937_64 generator_;
};

}  // namespace

torch::Tensor UniformTensor(const std::vector<int64_t>& shape, double bound, uint64_t seed,
                            uint64_t stream) {
  Uniform uniform(seed, stream);
  torch::Tensor tensor = at::empty(shape, torch::kFloat32);
  float* out = tensor.data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    out[i] = static_cast<float>(bound * (2 * uniform() - 1));
  }
  return tensor;
}

torch::Tensor NormalTensor(const std::vector<int64_t>& shape, double deviation, uint64_t seed,
                           uint64_t stream) {
  Uniform uniform(seed, stream);
  torch::Tensor tensor = at::empty(shape, torch::kFloat32);
  float* out = tensor.data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) {  // Box and Muller's
    const double radius = std::sqrt(-2 * std::log(uniform()));
    out[i] = static_cast<float>(deviation * radius * std::cos(2 * M_PI * uniform()));
  }
  return tensor;
}

}  // namespace thaw
