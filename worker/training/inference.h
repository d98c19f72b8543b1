// A model's groups as they are, without autograd and dropout.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
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

// Why there is no answer for a row (from 0, as answers count them) whose outputs are NaN or
// infinite: INVALID_ARGUMENT with reason OUTPUT_NOT_A_NUMBER.
absl::Status OutputNotANumber(int64_t row);

// The same unless all of `outputs` are finite.
absl::Status CheckOutputs(std::span<const float> outputs, int64_t row);

}  // namespace thaw
