// One vector per sequence out of its tokens' hidden states.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "thaw/v1/job_spec.pb.h"
#include "torch/types.h"
#include "worker/model/model.h"

namespace thaw {

// Unspecified: the mean.
Pooling PoolingOf(v1::Embed::Pooling pooling);

// The pooled head that a training asks for.
std::optional<PooledHeadConfig> PooledHeadOf(const v1::Training& training);

// fp32 [sequences, hidden] of `states` fp32 [rows, hidden] on the CPU, whose sequence i is rows
// [bounds[i], bounds[i + 1]), none empty; with autograd. With `normalize` each vector is divided by
// its L2 norm, or by 1e-12 if that is larger.
torch::Tensor Pool(const torch::Tensor& states, const std::vector<int32_t>& bounds, Pooling pooling,
                   bool normalize);

// What the model's pooled head reads of the rows that left the last block: one row a sequence.
Rows PooledRows(Model* model, const Rows& rows, const RunContext& context);

}  // namespace thaw
