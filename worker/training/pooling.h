// One vector per sequence out of its tokens' hidden states.
#pragma once

#include <cstdint>
#include <vector>

#include "thaw/v1/job_spec.pb.h"
#include "torch/types.h"

namespace thaw {

// fp32 [sequences, hidden] of `states` fp32 [rows, hidden] on the CPU, whose sequence i is rows
// [bounds[i], bounds[i + 1]), none empty. With `normalize` each vector is divided by its L2 norm,
// or by 1e-12 if that is larger.
torch::Tensor Pool(const torch::Tensor& states, const std::vector<int32_t>& bounds,
                   v1::Embed::Pooling pooling, bool normalize);

}  // namespace thaw
