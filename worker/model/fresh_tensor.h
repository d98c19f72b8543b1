#pragma once

#include <cstdint>
#include <vector>

#include "torch/types.h"

namespace thaw {

// fp32 drawn from N(0, deviation²), the same for the same seed and stream on every machine and with
// every LibTorch.
torch::Tensor NormalTensor(const std::vector<int64_t>& shape, double deviation, uint64_t seed,
                           uint64_t stream);

// The same drawn evenly from (-bound, bound).
torch::Tensor UniformTensor(const std::vector<int64_t>& shape, double bound, uint64_t seed,
                            uint64_t stream);

}  // namespace thaw
