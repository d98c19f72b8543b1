// Attention with linear biases (ALiBi, arXiv 2108.12409): positions as penalties on distance.
#pragma once

#include <cstdint>
#include <vector>

#include "torch/types.h"

namespace thaw {

// The slope of each head. For n = 2^k heads: 2^(-8/n), 2^(-16/n), … (section 3); for other numbers,
// as the authors' code does: those of the next smaller power of two, then every other one of the
// next larger.
std::vector<double> AlibiSlopes(int64_t heads);

// AttentionSpec::relative_bias, [heads, 2 * span - 1]: slope * (key - query).
torch::Tensor AlibiBias(int64_t heads, int64_t span);

}  // namespace thaw
