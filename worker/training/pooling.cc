#include "worker/training/pooling.h"

#include <algorithm>
#include <cmath>

namespace thaw {
namespace {

// PyTorch's normalize divides by no less.
constexpr double kLeastNorm = 1e-12;

void PoolRows(const float* rows, int64_t count, int64_t width, v1::Embed::Pooling pooling,
              float* out) {
  if (pooling == v1::Embed::CLS || pooling == v1::Embed::LAST) {
    std::copy_n(rows + (pooling == v1::Embed::LAST ? count - 1 : 0) * width, width, out);
    return;
  }
  std::copy_n(rows, width, out);
  for (int64_t r = 1; r < count; ++r) {
    const float* row = rows + r * width;
    if (pooling == v1::Embed::MAX) {
      for (int64_t i = 0; i < width; ++i) out[i] = std::max(out[i], row[i]);
    } else {
      for (int64_t i = 0; i < width; ++i) out[i] += row[i];
    }
  }
  if (pooling == v1::Embed::MAX) return;
  const float share = 1.0F / static_cast<float>(count);
  for (int64_t i = 0; i < width; ++i) out[i] *= share;
}

}  // namespace

torch::Tensor Pool(const torch::Tensor& states, const std::vector<int32_t>& bounds,
                   v1::Embed::Pooling pooling, bool normalize) {
  const auto sequences = static_cast<int64_t>(bounds.size()) - 1;
  const int64_t width = states.size(1);
  const torch::Tensor contiguous = states.contiguous();
  torch::Tensor result = at::empty({sequences, width}, states.options());
  const auto* in = contiguous.const_data_ptr<float>();
  auto* out = result.mutable_data_ptr<float>();
  for (int64_t s = 0; s < sequences; ++s) {
    float* vector = out + s * width;
    PoolRows(in + bounds[s] * width, bounds[s + 1] - bounds[s], width, pooling, vector);
    if (!normalize) continue;
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += double{vector[i]} * vector[i];
    const auto scale = static_cast<float>(1 / std::max(std::sqrt(squares), kLeastNorm));
    for (int64_t i = 0; i < width; ++i) vector[i] *= scale;
  }
  return result;
}

}  // namespace thaw
