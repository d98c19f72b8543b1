// A model's groups as they are, without autograd and dropout.
#pragma once

#include <cstdint>
#include <vector>

#include "torch/types.h"
#include "worker/model/model.h"

namespace thaw {

// int64 on the CPU; copies.
torch::Tensor IdTensor(const std::vector<int64_t>& ids);

// The rows that leave the last block; begins with the first block, or, where a generation goes on,
// with the decoder's. Counts the batch as seen by context.state, if there is one.
Rows Infer(Model* model, const Packed& packed, const RunContext& context);

// fp32 [n, vocabulary]: the language model's head for rows of Infer (int64 [n]; undefined: all).
torch::Tensor TokenLogits(Model* model, const Rows& rows, const torch::Tensor& selected);

}  // namespace thaw
