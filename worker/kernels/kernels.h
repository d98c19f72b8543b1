// CPU kernels on plain fp32 pointers, one table of them per instruction set. All matrices are
// row-major and, where no stride is named, contiguous. They run on OpenMP's threads
// (omp_set_num_threads of the caller); their results do not depend on how many there are: what is
// summed over rows is summed in chunks of fixed size, in order.
#pragma once

#include <cstdint>

#include "worker/kernels/dropout.h"

namespace thaw {

enum class InstructionSet { kGeneric, kAvx2, kAvx512 };

enum class ActivationKind { kGeluErf, kGeluTanh, kRelu, kSilu };

// Attention of packed sequences: queries of sequence s, rows [q_bounds[s], q_bounds[s + 1]), see
// all keys of rows [k_bounds[s], k_bounds[s + 1]). Row r of head h begins at r * stride + h *
// head_dim.
struct AttentionShape {
  const int32_t* q_bounds = nullptr;
  const int32_t* k_bounds = nullptr;
  int32_t sequences = 0;
  int32_t heads = 0;
  int32_t head_dim = 0;
  int64_t q_stride = 0;  // of q, out and their gradients, in floats
  int64_t k_stride = 0;  // of k, v and their gradients
  float scale = 1;       // of q·k before the softmax
  DropoutSite dropout;   // on the weights; row = query row, column = key within its sequence
};

struct KernelTable {
  InstructionSet instruction_set;

  // out = dropout(softmax(scale q kᵀ)) v; log_sums [q rows, heads] is for the backward pass.
  void (*attention_forward)(const AttentionShape& shape, const float* q, const float* k,
                            const float* v, float* out, float* log_sums);
  void (*attention_backward)(const AttentionShape& shape, const float* q, const float* k,
                             const float* v, const float* out, const float* log_sums,
                             const float* d_out, float* d_q, float* d_k, float* d_v);

  // y = LayerNorm(residual + dropout(x + bias)) * gamma + beta over rows of `columns`. x is
  // overwritten with the normalised rows (before gamma), which the backward pass needs together
  // with inverse_deviation [rows]. bias and residual may be null.
  void (*residual_norm_forward)(int64_t rows, int64_t columns, float* x, const float* bias,
                                const float* residual, const float* gamma, const float* beta,
                                float epsilon, const DropoutSite& dropout, float* y,
                                float* inverse_deviation);
  // d_residual is the gradient at the sum, d_x that after dropout; d_x may be null when dropout is
  // off (it would be equal). d_gamma, d_beta and d_bias may be null together with what they stand
  // for.
  void (*residual_norm_backward)(int64_t rows, int64_t columns, const float* d_y,
                                 const float* normalised, const float* inverse_deviation,
                                 const float* gamma, const DropoutSite& dropout, float* d_residual,
                                 float* d_x, float* d_gamma, float* d_beta, float* d_bias);

  // x += bias, y = activation(x).
  void (*activation_forward)(ActivationKind kind, int64_t rows, int64_t columns, float* x,
                             const float* bias, float* y);
  // d *= activation'(x); if y is not null, y = activation(x).
  void (*activation_backward)(ActivationKind kind, int64_t rows, int64_t columns, const float* x,
                              float* d, float* y);

  // x = dropout(x + bias); bias may be null.
  void (*bias_dropout)(int64_t rows, int64_t columns, float* x, const float* bias,
                       const DropoutSite& dropout);
  void (*column_sums)(int64_t rows, int64_t columns, const float* x, float* sums);

  // y[r] = word[ids[r]] + position[positions[r]] + type[types[r]]; types may be null (row 0).
  void (*embedding_forward)(int64_t rows, int64_t columns, const int64_t* ids,
                            const int64_t* positions, const int64_t* types, const float* word,
                            const float* position, const float* type, float* y);
  // table[ids[r]] += d[r], in the order of the rows; ids null means row 0.
  void (*scatter_add)(int64_t rows, int64_t columns, const int64_t* ids, const float* d,
                      float* table);

  // Returns the sum of -log softmax(logits)[label] over the rows, d_logits its gradient. A row
  // whose label is negative counts nothing.
  double (*cross_entropy)(int64_t rows, int64_t classes, const float* logits, const int64_t* labels,
                          float* d_logits);
};

// nullptr if this processor cannot run it.
const KernelTable* KernelsFor(InstructionSet set);
// The best that this processor runs.
const KernelTable& Kernels();

}  // namespace thaw
