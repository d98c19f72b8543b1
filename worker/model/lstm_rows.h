// An LSTM over packed rows, and what ULMFiT puts around it (arXiv 1801.06146).
#pragma once

#include <cstdint>
#include <vector>

#include "torch/types.h"
#include "worker/model/ops.h"
#include "worker/model/parameters.h"

namespace thaw {

// One layer, gates in the order input, forget, cell, output; both biases are added.
struct LstmWeights {
  const Parameter* input = nullptr;   // [4 width, in]
  const Parameter* hidden = nullptr;  // [4 width, width]
  const Parameter* input_bias = nullptr;
  const Parameter* hidden_bias = nullptr;
};

struct LstmRun {
  torch::Tensor hidden_weight;  // in the place of LstmWeights::hidden: dropped out, perhaps
  // Tokens after which the gradient is cut, though the state goes on; 0: never.
  int64_t chunk = 0;
  // Begins with its h and c, where it has them, and leaves the last ones there, detached.
  BlockState* state = nullptr;
};

// Each sequence of x [rows, in] from its first row to its last: [rows, width].
torch::Tensor RunLstm(const LstmWeights& weights, const LstmRun& run, const torch::Tensor& x,
                      const std::vector<int32_t>& bounds);

// Dropout with one mask for all rows of a sequence.
torch::Tensor SequenceDropout(Path path, const torch::Tensor& x, const std::vector<int32_t>& bounds,
                              const DropoutSite& dropout);

// [last row, largest, mean] of each sequence: [sequences, 3 * width].
torch::Tensor ConcatPool(const torch::Tensor& x, const std::vector<int32_t>& bounds);

// (x - mean) / deviation * gamma + beta over the examples of x [examples, width] (arXiv
// 1502.03167). With `learns` mean and variance are those of x, at least two examples, and
// running_mean and running_variance, which are changed in place, move a tenth of the way to them;
// else they are the running ones.
torch::Tensor BatchNorm(const torch::Tensor& x, const torch::Tensor& gamma,
                        const torch::Tensor& beta, const torch::Tensor& running_mean,
                        const torch::Tensor& running_variance, bool learns);

}  // namespace thaw
