// The reference path of ops.h: same contracts, plain ATen. Of rows in bf16 it too computes in fp32
// and rounds results.
#pragma once

#include "worker/model/ops.h"

namespace thaw::reference {

torch::Tensor Normalise(const torch::Tensor& x, const Norm& norm);
torch::Tensor EmbeddingNorm(const EmbeddingInputs& inputs, const torch::Tensor& word,
                            const torch::Tensor& position, const torch::Tensor& type,
                            const torch::Tensor& gamma, const torch::Tensor& beta, double epsilon,
                            const DropoutSite& dropout);
torch::Tensor Embedding(const EmbeddingInputs& inputs, const torch::Tensor& word,
                        const torch::Tensor& position, const DropoutSite& dropout);
torch::Tensor Attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                        const AttentionSpec& spec);
torch::Tensor CachedAttention(const torch::Tensor& q, const torch::Tensor& k,
                              const torch::Tensor& v, AttentionSpec spec,
                              const std::vector<int32_t>& lengths, BlockState* block);
torch::Tensor Rotate(const torch::Tensor& x, const torch::Tensor& positions,
                     const torch::Tensor& cosines, const torch::Tensor& sines);
torch::Tensor Residual(const torch::Tensor& x, const torch::Tensor& bias,
                       const torch::Tensor& residual, const DropoutSite& dropout);
torch::Tensor Linear(const torch::Tensor& x, const WeightAndBias& parameters);
torch::Tensor Activate(ActivationKind activation, const torch::Tensor& x);
// activation(gate) * up.
torch::Tensor Gate(ActivationKind activation, const torch::Tensor& gate, const torch::Tensor& up);
torch::Tensor Mlp(ActivationKind activation, const torch::Tensor& x, const WeightAndBias& first,
                  const WeightAndBias& second, const DropoutSite& inner_dropout);
torch::Tensor GatedMlp(ActivationKind activation, const torch::Tensor& x, const WeightAndBias& gate,
                       const WeightAndBias& up, const WeightAndBias& down,
                       const DropoutSite& inner_dropout);
torch::Tensor Dropout(const torch::Tensor& x, const DropoutSite& dropout);
torch::Tensor LinearCrossEntropySum(const torch::Tensor& states, const torch::Tensor& weight,
                                    const torch::Tensor& bias, const torch::Tensor& labels,
                                    const torch::Tensor& half);
torch::Tensor LinearLogProbabilities(const torch::Tensor& states, const torch::Tensor& weight,
                                     const torch::Tensor& bias, const torch::Tensor& labels,
                                     const torch::Tensor& half);

}  // namespace thaw::reference
