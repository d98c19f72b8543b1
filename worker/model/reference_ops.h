// The reference path of ops.h: same contracts, plain ATen.
#pragma once

#include "worker/model/ops.h"

namespace thaw::reference {

// x[rows]. By gather, which, unlike index_select, runs on the meta device.
torch::Tensor GatherRows(const torch::Tensor& x, const torch::Tensor& rows);

torch::Tensor EmbeddingNorm(const EmbeddingInputs& inputs, const torch::Tensor& word,
                            const torch::Tensor& position, const torch::Tensor& type,
                            const torch::Tensor& gamma, const torch::Tensor& beta, double epsilon,
                            const DropoutSite& dropout);
torch::Tensor Attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                        const std::vector<int32_t>& q_bounds, const std::vector<int32_t>& k_bounds,
                        int64_t heads, const DropoutSite& dropout);
torch::Tensor ResidualNorm(const torch::Tensor& x, const torch::Tensor& bias,
                           const torch::Tensor& residual, const torch::Tensor& gamma,
                           const torch::Tensor& beta, double epsilon, const DropoutSite& dropout);
torch::Tensor Mlp(ActivationKind activation, const torch::Tensor& x, const torch::Tensor& w1,
                  const torch::Tensor& b1, const torch::Tensor& w2);
torch::Tensor Dropout(const torch::Tensor& x, const DropoutSite& dropout);

}  // namespace thaw::reference
