// Differentiable operations on packed rows, each one autograd function that calls our kernels and
// oneDNN's GEMM itself and saves little. fp32; matrices are contiguous, weights [out, in] as
// in the checkpoints. Gradients are computed only where they are asked for; those of matrices are
// added straight to a leaf's .grad where one is set before the backward pass.
//
// Results are the same bits from run to run. They do not depend on the number of threads, but for
// what oneDNN's GEMM does: it may split sums by thread.
#pragma once

#include <cstdint>
#include <vector>

#include "torch/types.h"
#include "worker/kernels/dropout.h"
#include "worker/kernels/kernels.h"

namespace thaw {

// kReference: plain ATen operations, for tests and for devices and element types that the kernels
// do not serve. Both give the same values up to rounding, and drop the same elements.
enum class Path { kKernels, kReference };

struct EmbeddingInputs {
  torch::Tensor ids, positions, types;  // int64 [rows]; types may be undefined (all 0)
  int64_t padding_id = -1;              // whose row of `word` gets no gradient
};
// dropout(LayerNorm(word[ids] + position[positions] + type[types])).
torch::Tensor EmbeddingNorm(Path path, const EmbeddingInputs& inputs, const torch::Tensor& word,
                            const torch::Tensor& position, const torch::Tensor& type,
                            const torch::Tensor& gamma, const torch::Tensor& beta, double epsilon,
                            const DropoutSite& dropout);

struct WeightAndBias {
  torch::Tensor weight;
  torch::Tensor bias;  // may be undefined
};
// x weightᵀ + bias for each of them; their gradients at x are summed inside the GEMMs.
std::vector<torch::Tensor> Projections(Path path, const torch::Tensor& x,
                                       const std::vector<WeightAndBias>& parameters);
torch::Tensor Linear(Path path, const torch::Tensor& x, const torch::Tensor& weight,
                     const torch::Tensor& bias);

// Every query row of a sequence sees all its key rows: softmax(q kᵀ / sqrt(head_dim)) v per head.
// q is [q rows, width], k and v [k rows, width].
torch::Tensor Attention(Path path, const torch::Tensor& q, const torch::Tensor& k,
                        const torch::Tensor& v, const std::vector<int32_t>& q_bounds,
                        const std::vector<int32_t>& k_bounds, int64_t heads,
                        const DropoutSite& dropout);

// LayerNorm(residual + dropout(x + bias)). Takes over x: its contents are overwritten, so it must
// come straight from an operation that does not keep its result, as Linear and Mlp do not.
torch::Tensor ResidualNorm(Path path, const torch::Tensor& x, const torch::Tensor& bias,
                           const torch::Tensor& residual, const torch::Tensor& gamma,
                           const torch::Tensor& beta, double epsilon, const DropoutSite& dropout);

// activation(x w1ᵀ + b1) w2ᵀ: the activations are computed again in the backward pass.
torch::Tensor Mlp(Path path, ActivationKind activation, const torch::Tensor& x,
                  const torch::Tensor& w1, const torch::Tensor& b1, const torch::Tensor& w2);

torch::Tensor Dropout(Path path, const torch::Tensor& x, const DropoutSite& dropout);

// The first row of each sequence: [sequences, width].
torch::Tensor FirstRows(const torch::Tensor& x, const std::vector<int32_t>& bounds);

// Sum over the rows of -log softmax(logits)[label]: a scalar. Labels int64 [rows], -100 for rows
// that count nothing; any other outside [0, classes) throws.
torch::Tensor CrossEntropySum(const torch::Tensor& logits, const torch::Tensor& labels);
// Sum of (logits - targets)² over all elements; targets fp32, same shape.
torch::Tensor SquaredErrorSum(const torch::Tensor& logits, const torch::Tensor& targets);

}  // namespace thaw
