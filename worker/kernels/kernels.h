// CPU kernels on plain pointers, one table of them per instruction set. All matrices are row-major
// and, where no stride is named, contiguous. They run on OpenMP's threads (omp_set_num_threads of
// the caller); their results do not depend on how many there are: what is summed over rows is
// summed in chunks of fixed size, in order.
//
// Rows may be fp32 or bf16. Everything is computed in fp32 and rounded, to nearest even, when it is
// stored; parameters, their gradients and sums are fp32 always.
#pragma once

#include <cstddef>
#include <cstdint>

#include "worker/kernels/dropout.h"

namespace thaw {

// kAmx: AVX-512 with tiles for bf16; on fp32 rows it gives the bits of kAvx512.
enum class InstructionSet { kGeneric, kAvx2, kAvx512, kAmx };

// bfloat16: the upper half of a float.
struct Bf16 {
  uint16_t bits;
};

enum class RowType { kFloat, kBf16 };

// Rows whose element type is known at run time. Null stands for what is not given, of any type.
struct Elements {
  constexpr Elements(std::nullptr_t = nullptr) {}
  constexpr Elements(float* rows) : data(rows) {}
  constexpr Elements(Bf16* rows) : data(rows), type(RowType::kBf16) {}

  void* data = nullptr;
  RowType type = RowType::kFloat;
};
struct ConstElements {
  constexpr ConstElements(std::nullptr_t = nullptr) {}
  constexpr ConstElements(const float* rows) : data(rows) {}
  constexpr ConstElements(const Bf16* rows) : data(rows), type(RowType::kBf16) {}
  constexpr ConstElements(const Elements& rows) : data(rows.data), type(rows.type) {}

  const void* data = nullptr;
  RowType type = RowType::kFloat;
};

// kQuickGelu: x sigmoid(1.702 x).
enum class ActivationKind { kGeluErf, kGeluTanh, kRelu, kSilu, kQuickGelu, kTanh };

// kLayer: (x - mean) / deviation. kRms: x / sqrt(mean(x²) + epsilon), as LLaMA and T5 have it.
enum class NormKind { kLayer, kRms };

// Row r of head h begins at r * row + h * head, in elements.
struct HeadStrides {
  int64_t row = 0;
  int64_t head = 0;
};

// Attention of packed sequences: queries of sequence s, rows [q_bounds[s], q_bounds[s + 1]), see
// keys of rows [k_bounds[s], k_bounds[s + 1]). The queries are the last rows of the keys' sequence:
// with Q queries and K keys, query i stands at position i + K - Q. Query head h asks key head
// h / (heads / kv_heads).
struct AttentionShape {
  const int32_t* q_bounds = nullptr;
  const int32_t* k_bounds = nullptr;
  int32_t sequences = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;  // divides heads
  int32_t head_dim = 0;
  HeadStrides q, kv, out;  // kv: of k and v; out: of out and d_out
  HeadStrides d_q, d_kv;   // of the gradients
  float scale = 1;         // of q·k before the softmax
  bool causal = false;     // key j is seen from its position on; then K >= Q
  int64_t window = 0;      // > 0: position p sees keys after p - window only, itself included
  // Added to the scaled score of key j and position p: [heads][2 * bias_span - 1] at
  // j - p + bias_span - 1, the distance being clamped to (-bias_span, bias_span). May be null.
  const float* relative_bias = nullptr;
  int64_t bias_span = 0;
  DropoutSite dropout;  // on the weights; row = query row, plane = query head, column = key within
                        // its sequence
};

// The keys and values so far of one sequence and where its new queries lie. Row j of key head h
// begins at j * DecodeShape::kv.row + h * kv.head: head by head ([kv_heads, capacity, head_dim])
// is read fastest.
struct CachedSequence {
  ConstElements k, v;       // of the queries' type
  int64_t keys = 0;         // with those of the new queries
  int64_t first_query = 0;  // row
  int64_t queries = 1;      // the last `queries` positions; each sees keys up to its own
};

// The fields are as in AttentionShape.
struct DecodeShape {
  const CachedSequence* sequences = nullptr;
  int32_t count = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  HeadStrides q, kv, out;
  float scale = 1;
  int64_t window = 0;
  const float* relative_bias = nullptr;
  int64_t bias_span = 0;
};

// kInOut: as GPT-2's Conv1D has it.
enum class WeightLayout { kOutIn, kInOut };

// x [rows, in] and y [rows, out], none of them 0; consecutive rows are so many elements apart.
struct MatmulShape {
  WeightLayout layout = WeightLayout::kOutIn;
  int64_t rows = 0, in = 0, out = 0;
  int64_t x_row = 0, weight_row = 0, y_row = 0;
};

struct RotaryShape {
  int64_t rows = 0;
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t half = 0;
  const float* cosines = nullptr;
  const float* sines = nullptr;
  const int64_t* positions = nullptr;
  HeadStrides x, y;
  bool backwards = false;
};

struct KernelTable {
  InstructionSet instruction_set;

  // Where nothing else is said, the rows that a call is given are of one type.

  // out = dropout(softmax(scale q kᵀ + bias)) v; log_sums [q rows, heads] is for the backward pass.
  // Work and memory for the scores grow with what is seen, not with what the mask hides.
  void (*attention_forward)(const AttentionShape& shape, ConstElements q, ConstElements k,
                            ConstElements v, Elements out, float* log_sums);
  // d_relative_bias, as relative_bias, may be null.
  void (*attention_backward)(const AttentionShape& shape, ConstElements q, ConstElements k,
                             ConstElements v, ConstElements out, const float* log_sums,
                             ConstElements d_out, Elements d_q, Elements d_k, Elements d_v,
                             float* d_relative_bias);

  // y = LayerNorm(residual + dropout(x + bias)) * gamma + beta over rows of `columns`. x is
  // overwritten with the normalised rows (before gamma), which the backward pass needs together
  // with inverse_deviation [rows]. bias and residual may be null. y may be of another type than x.
  void (*residual_norm_forward)(int64_t rows, int64_t columns, Elements x, const float* bias,
                                ConstElements residual, const float* gamma, const float* beta,
                                float epsilon, const DropoutSite& dropout, Elements y,
                                float* inverse_deviation);
  // d_residual is the gradient at the sum, d_x that after dropout; d_x may be null when dropout is
  // off (it would be equal). d_gamma, d_beta and d_bias may be null together with what they stand
  // for. d_y may be of another type than the rest.
  void (*residual_norm_backward)(int64_t rows, int64_t columns, ConstElements d_y,
                                 ConstElements normalised, const float* inverse_deviation,
                                 const float* gamma, const DropoutSite& dropout,
                                 Elements d_residual, Elements d_x, float* d_gamma, float* d_beta,
                                 float* d_bias);

  // sum = residual + dropout(x + bias), y = norm(sum) * gamma + beta. bias, residual and beta may
  // be null; sum, which may be x, too if it would be equal to x: with neither bias, residual nor
  // dropout. y may be of another type than x. moments [rows, 2], a mean (0 for kRms) and an inverse
  // deviation, are for the backward pass.
  void (*sum_norm_forward)(NormKind kind, int64_t rows, int64_t columns, ConstElements x,
                           const float* bias, const float* residual, const float* gamma,
                           const float* beta, float epsilon, const DropoutSite& dropout, float* sum,
                           Elements y, float* moments);
  // From the gradients at y and at the sum (d_sum, may be null or d_residual). `sum` and
  // d_residual are of one type (that of x where there was no sum), d_y and d_x of one, too. d_x may
  // be null when it would be d_residual. The others are as for residual_norm_backward.
  void (*sum_norm_backward)(NormKind kind, int64_t rows, int64_t columns, ConstElements d_y,
                            const float* d_sum, ConstElements sum, const float* moments,
                            const float* gamma, const DropoutSite& dropout, Elements d_residual,
                            Elements d_x, float* d_gamma, float* d_beta, float* d_bias);

  // Rotary position embedding (Su et al., "RoFormer", arXiv 2104.09864), the pairs being columns c
  // and c + half of a head, c < half: turned by the angle whose cosine and sine are at
  // [positions[row], c] of tables of `half` columns. Columns from 2 half on are copied. Backwards
  // turns by the negative angle, which is the gradient. y may be x.
  void (*rotate)(const RotaryShape& shape, ConstElements x, Elements y);

  // x += bias, y = activation(x). bias may be null.
  void (*activation_forward)(ActivationKind kind, int64_t rows, int64_t columns, Elements x,
                             const float* bias, Elements y);
  // d *= activation'(x); if y is not null, y = activation(x).
  void (*activation_backward)(ActivationKind kind, int64_t rows, int64_t columns, ConstElements x,
                              Elements d, Elements y);

  // y = activation(gate) * up; rows of gate and up are `stride` apart, those of y contiguous.
  void (*gated_forward)(ActivationKind kind, int64_t rows, int64_t columns, ConstElements gate,
                        ConstElements up, int64_t stride, Elements y);
  // d is the gradient at y; d_gate and d_up lie as gate and up do and may be them. y, if not null,
  // is computed again; it may be d.
  void (*gated_backward)(ActivationKind kind, int64_t rows, int64_t columns, ConstElements gate,
                         ConstElements up, int64_t stride, ConstElements d, Elements d_gate,
                         Elements d_up, Elements y);

  // y = residual + dropout(x + bias). bias and residual may be null; y, which may be either of the
  // others, is of the residual's type, x may be of another.
  void (*bias_dropout_add)(int64_t rows, int64_t columns, ConstElements x, const float* bias,
                           const DropoutSite& dropout, ConstElements residual, Elements y);
  void (*column_sums)(int64_t rows, int64_t columns, ConstElements x, float* sums);
  // y = x.
  void (*round)(int64_t n, const float* x, Bf16* y);
  // y += x.
  void (*add)(int64_t n, const Bf16* x, float* y);

  // y[r] = word[ids[r]] + position[positions[r]] + type[types[r]]; types may be null (row 0), and
  // so may position and type.
  void (*embedding_forward)(int64_t rows, int64_t columns, const int64_t* ids,
                            const int64_t* positions, const int64_t* types, const float* word,
                            const float* position, const float* type, float* y);
  // table[ids[r]] += d[r], in the order of the rows; ids null means row 0.
  void (*scatter_add)(int64_t rows, int64_t columns, const int64_t* ids, const float* d,
                      float* table);

  // Returns the sum of -log softmax(logits)[label] over the rows; d_logits, its gradient, may be
  // null or logits. A row whose label is negative counts nothing. log_probabilities [rows], of the
  // labels (0 where there is none), and log_sums [rows], log Σ e^logits of all rows, may be null.
  double (*cross_entropy)(int64_t rows, int64_t classes, ConstElements logits,
                          const int64_t* labels, Elements d_logits, float* log_probabilities,
                          float* log_sums);

  // A weight's gradient from rows in bf16: sum [out, in] = dᵀ x of d [rows, out] and x [rows, in],
  // added to it if asked for. Null without AMX.
  void (*matmul_transposed)(int64_t rows, int64_t out, int64_t in, const Bf16* d, const Bf16* x,
                            bool accumulate, float* sum);

  // y = x weightᵀ + bias, added to y's before if asked for; bias may be null. A row's result does
  // not depend on the other rows. Null without AMX.
  void (*matmul)(const MatmulShape& shape, const Bf16* x, const Bf16* weight, const float* bias,
                 bool accumulate, Bf16* y);

  // For generating: bound by memory, which is read once.
  // y [rows, out] = x [rows, in] weightᵀ + bias for up to some 32 rows; bias may be null. A row's
  // result does not depend on the other rows.
  void (*skinny_matmul)(WeightLayout layout, int64_t rows, int64_t in, int64_t out, ConstElements x,
                        ConstElements weight, const float* bias, Elements y);
  void (*attention_decode)(const DecodeShape& shape, ConstElements q, Elements out);

  // y[i] = table[code i] * scales[i / block], the n codes being two to a byte, the first of them in
  // its upper half; `block` is even, and the table has 16 numbers.
  void (*nf4_expand)(int64_t n, int64_t block, const uint8_t* codes, const float* table,
                     const float* scales, Elements y);
};

// nullptr if this processor cannot run it.
const KernelTable* KernelsFor(InstructionSet set);
// The best that this processor runs.
const KernelTable& Kernels();

}  // namespace thaw
