// Differentiable operations on packed rows, each one autograd function that calls our kernels and
// oneDNN's GEMM itself and saves little. fp32; matrices are contiguous, weights [out, in] as
// in the checkpoints (or [in, out] where said). Gradients are computed only where they are asked
// for; those of matrices are added straight to a leaf's .grad where one is set before the backward
// pass.
//
// Results are the same bits from run to run. They do not depend on the number of threads, but for
// what oneDNN's GEMM does: it may split sums by thread.
//
// Rows may be bf16: then matrices are multiplied in bf16 (by a weight's `half`), and everything
// else is computed in fp32 and rounded when it is stored. Sums of residuals stay fp32, parameters
// and their gradients are fp32 always.
#pragma once

#include <cstdint>
#include <vector>

#include "torch/types.h"
#include "worker/kernels/dropout.h"
#include "worker/kernels/kernels.h"
#include "worker/model/sequence_state.h"

namespace thaw {

// kReference: plain ATen operations, for tests and for devices and element types that the kernels
// do not serve. Both give the same values up to rounding, and drop the same elements.
enum class Path { kKernels, kReference };

// ---- Norms

struct Norm {
  NormKind kind = NormKind::kLayer;
  torch::Tensor weight;
  torch::Tensor bias;  // kLayer only: kRms has none
  double epsilon = 1e-5;
  torch::ScalarType type = torch::kFloat;  // of the normed rows: kFloat or kBFloat16
};
torch::Tensor Normalise(Path path, const torch::Tensor& x, const Norm& norm);
// Over each head's `weight.size(0)` numbers of x [rows, heads * head_dim].
torch::Tensor NormaliseHeads(Path path, const torch::Tensor& x, const Norm& norm);

// LayerNorm(residual + dropout(x + bias)), as post-norm blocks end. Takes over x: its contents are
// overwritten, so it must come straight from an operation that does not keep its result, as Linear
// and Mlp do not.
torch::Tensor ResidualNorm(Path path, const torch::Tensor& x, const torch::Tensor& bias,
                           const torch::Tensor& residual, const torch::Tensor& gamma,
                           const torch::Tensor& beta, double epsilon, const DropoutSite& dropout);

// sum = residual + dropout(x + bias) and normed = norm(sum), as pre-norm blocks go on. `bias` may
// be undefined. Takes over x, like ResidualNorm.
struct SumAndNorm {
  torch::Tensor sum, normed;
};
SumAndNorm ResidualAndNorm(Path path, const torch::Tensor& x, const torch::Tensor& bias,
                           const torch::Tensor& residual, const Norm& norm,
                           const DropoutSite& dropout);
// The sum alone.
torch::Tensor Residual(Path path, const torch::Tensor& x, const torch::Tensor& bias,
                       const torch::Tensor& residual, const DropoutSite& dropout);

// ---- Embeddings

struct EmbeddingInputs {
  torch::Tensor ids, positions, types;     // int64 [rows]; types may be undefined (all 0)
  int64_t padding_id = -1;                 // whose row of `word` gets no gradient
  torch::ScalarType type = torch::kFloat;  // of the rows that EmbeddingNorm gives
};
// dropout(LayerNorm(word[ids] + position[positions] + type[types])). `position` and `type` may be
// undefined.
torch::Tensor EmbeddingNorm(Path path, const EmbeddingInputs& inputs, const torch::Tensor& word,
                            const torch::Tensor& position, const torch::Tensor& type,
                            const torch::Tensor& gamma, const torch::Tensor& beta, double epsilon,
                            const DropoutSite& dropout);
// dropout(word[ids] + position[positions]); `position` may be undefined.
torch::Tensor Embedding(Path path, const EmbeddingInputs& inputs, const torch::Tensor& word,
                        const torch::Tensor& position, const DropoutSite& dropout);

// ---- Projections

// scale dropout(x) downᵀ upᵀ, which an added part adds to a projection: down [rank, in], up [out,
// rank].
struct LowRank {
  torch::Tensor down = {}, up = {};  // undefined: nothing is added
  double scale = 1;
  DropoutSite dropout = {};
  // Where defined, [out]: each row of weight + scale up down has this length instead of its own,
  // which gets no gradient (DoRA, arXiv 2402.09353, section 4.3).
  torch::Tensor magnitude = {};
  torch::Tensor down_half = {}, up_half = {};  // as WeightAndBias::half
};
struct WeightAndBias {
  torch::Tensor weight;
  torch::Tensor bias = {};   // may be undefined
  bool input_major = false;  // weight is [in, out]
  // The weight rounded to bf16, which rows in bf16 are multiplied by; needed for those alone. The
  // gradient is the weight's.
  torch::Tensor half = {};
  // Of an added part, all undefined where there is none. The scales are of x [in] and of the result
  // with its bias [out].
  LowRank low_rank = {};
  torch::Tensor input_scale = {}, output_scale = {};

  bool changed() const {
    return low_rank.down.defined() || input_scale.defined() || output_scale.defined();
  }
};
// x weightᵀ + bias for each of them, with what is added; their gradients at x are summed inside the
// GEMMs. Where nothing is added, or nothing but low-rank changes whose `up` is 0, the results are
// the same bits.
std::vector<torch::Tensor> Projections(Path path, const torch::Tensor& x,
                                       const std::vector<WeightAndBias>& parameters);
torch::Tensor Linear(Path path, const torch::Tensor& x, const WeightAndBias& parameters);

// x [rows, width] times scale [width], column by column.
torch::Tensor ScaleColumns(Path path, const torch::Tensor& x, const torch::Tensor& scale);
// The lengths of the rows of weight + scale up down, [out]; no autograd.
torch::Tensor RowLengths(const torch::Tensor& weight, bool input_major, const LowRank& change);

torch::Tensor Activate(Path path, ActivationKind activation, const torch::Tensor& x);
// dropout(activation(first(x))) times second's weight, without second's bias, which ResidualNorm
// and its like add: the activations are computed again in the backward pass, unless something is
// added to one of the two.
torch::Tensor Mlp(Path path, ActivationKind activation, const torch::Tensor& x,
                  const WeightAndBias& first, const WeightAndBias& second,
                  const DropoutSite& inner_dropout);
// dropout(activation(gate(x)) * up(x)) times down's weight; likewise.
torch::Tensor GatedMlp(Path path, ActivationKind activation, const torch::Tensor& x,
                       const WeightAndBias& gate, const WeightAndBias& up,
                       const WeightAndBias& down, const DropoutSite& inner_dropout);

// ---- Attention

// q [q rows, heads, head_dim], k and v [k rows, kv heads, head_dim], each with contiguous heads but
// rows and heads at any stride, so that parts of a fused projection need no copy. Query head h
// reads kv head h / (heads / kv heads). Where a sequence has fewer queries than keys, `causal` and
// `relative_bias` take them for its last positions.
struct AttentionSpec {
  std::vector<int32_t> q_bounds, k_bounds;  // as many sequences
  double scale = 1;                         // of q·k
  bool causal = false;                      // query i sees keys j <= i
  int64_t window = 0;                       // and of those only j > i - window; 0: all
  // fp32 [heads, 2 * span - 1], added to the scaled scores: column key - query + span - 1, the
  // distance being clamped to (-span, span). Undefined: nothing. Serves ALiBi and T5's buckets;
  // gets a gradient where it requires one.
  torch::Tensor relative_bias;
  DropoutSite dropout;  // on the weights
};
// softmax(scale q kᵀ + bias) v per head: [q rows, heads * head_dim].
torch::Tensor Attention(Path path, const torch::Tensor& q, const torch::Tensor& k,
                        const torch::Tensor& v, const AttentionSpec& spec);

// The same without autograd and dropout, over what `block` holds of earlier tokens (`lengths` by
// sequence) and these: k and v are appended there. spec.k_bounds is not read.
torch::Tensor CachedAttention(Path path, const torch::Tensor& q, const torch::Tensor& k,
                              const torch::Tensor& v, const AttentionSpec& spec,
                              const std::vector<int32_t>& lengths, BlockState* block);

// Rotary positions (arXiv 2104.09864) in the split-halves form of transformers: of the first
// 2 * cosines.size(1) numbers of each head, number i and number i + half are rotated by the angle
// of (position, i). x [rows, heads, head_dim] as for Attention; the tables are fp32 [positions,
// half].
torch::Tensor Rotate(Path path, const torch::Tensor& x, const torch::Tensor& positions,
                     const torch::Tensor& cosines, const torch::Tensor& sines);

// ---- Dropout and losses

torch::Tensor Dropout(Path path, const torch::Tensor& x, const DropoutSite& dropout);

// Sum over the rows of -log softmax(logits)[label]: a scalar. Labels int64 [rows], -100 for rows
// that count nothing; any other outside [0, classes) throws.
torch::Tensor CrossEntropySum(const torch::Tensor& logits, const torch::Tensor& labels);
// The same of logits = states weightᵀ + bias (bias may be undefined), which never exist as a whole:
// rows go in chunks, forward and backward.
torch::Tensor LinearCrossEntropySum(Path path, const torch::Tensor& states,
                                    const torch::Tensor& weight, const torch::Tensor& bias,
                                    const torch::Tensor& labels, const torch::Tensor& half = {});
// log softmax(states weightᵀ + bias)[label] of each row, fp32 [rows]; no autograd; likewise in
// chunks.
torch::Tensor LinearLogProbabilities(Path path, const torch::Tensor& states,
                                     const torch::Tensor& weight, const torch::Tensor& bias,
                                     const torch::Tensor& labels, const torch::Tensor& half = {});
// Sum of (logits - targets)² over all elements; targets fp32, same shape.
torch::Tensor SquaredErrorSum(const torch::Tensor& logits, const torch::Tensor& targets);
// Sum over all elements of the binary cross-entropy of sigmoid(logits) against targets in [0, 1].
torch::Tensor BinaryCrossEntropySum(const torch::Tensor& logits, const torch::Tensor& targets);

}  // namespace thaw
