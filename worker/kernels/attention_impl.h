// Attention per (sequence, head): keys and values are packed once, queries come in blocks whose
// scores stay in the cache, so the softmax sees whole rows and nothing is padded. See simd.h for
// how this is included.
#pragma once

#include <initializer_list>

#include "worker/kernels/kernels.h"
#include "worker/kernels/matmul_impl.h"
#include "worker/kernels/random_impl.h"
#include "worker/kernels/scratch.h"

namespace thaw {
namespace {

constexpr int64_t kQueryBlock = 24;  // rows; a multiple of kTileRows

// One (sequence, head) with the padded sizes of its packed matrices.
struct HeadTask {
  HeadTask(const AttentionShape& shape, int64_t task)
      : head(task % shape.heads),
        sequence(task / shape.heads),
        q_first(shape.q_bounds[sequence]),
        queries(shape.q_bounds[sequence + 1] - q_first),
        k_first(shape.k_bounds[sequence]),
        keys(shape.k_bounds[sequence + 1] - k_first),
        keys_padded(RoundUp(keys, kLanes)),
        dim(shape.head_dim),
        dim_padded(RoundUp(dim, kLanes)),
        q_offset(q_first * shape.q_stride + head * dim),
        k_offset(k_first * shape.k_stride + head * dim) {}

  int64_t head, sequence, q_first, queries, k_first, keys, keys_padded, dim, dim_padded, q_offset,
      k_offset;
};

// to[c][r] = from[r][c], rows padded with zeros.
THAW_INLINE void PackTransposed(int64_t rows, int64_t rows_padded, int64_t columns,
                                const float* from, int64_t stride, float* to) {
  for (int64_t r0 = 0; r0 < rows_padded; r0 += kLanes) {
    OverColumns(0, columns, [&](int64_t c0, int64_t width) {
      Floats square[kLanes];
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes; ++i) {
        square[i] = r0 + i < rows ? LoadUpTo(from + (r0 + i) * stride + c0, width) : Floats{};
      }
      Transpose(square);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes; ++i) {
        if (i < width) Store(to + (c0 + i) * rows_padded + r0, square[i]);
      }
    });
  }
}

// to[r][c] = scale * from[r][c], columns padded with zeros.
THAW_INLINE void PackRows(int64_t rows, int64_t columns, int64_t columns_padded, const float* from,
                          int64_t stride, float scale, float* to) {
  for (int64_t r = 0; r < rows; ++r) {
    OverColumns(0, columns, [&](int64_t c, int64_t n) {
      Store(to + r * columns_padded + c, LoadUpTo(from + r * stride + c, n) * scale);
    });
  }
}

// to[r][c] = from[r][c], from a padded matrix.
THAW_INLINE void UnpackRows(int64_t rows, int64_t columns, int64_t columns_padded,
                            const float* from, float* to, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    OverColumns(0, columns, [&](int64_t c, int64_t n) {
      StoreUpTo(to + r * stride + c, Load(from + r * columns_padded + c), n);
    });
  }
}

// A head is a narrow strip of the matrix, which the processor does not foresee: asks for the next
// head's while this one is computed.
THAW_INLINE void PrefetchNextHead(const AttentionShape& shape, const HeadTask& task, int64_t rows,
                                  const float* strip, int64_t stride) {
  if (task.head + 1 == shape.heads) return;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < task.dim; c += 16) {
      __builtin_prefetch(strip + task.dim + r * stride + c, 0, 2);
    }
  }
}

// Turns a row of scores into e^(score - largest), dropped out if asked for; returns the sum before
// dropout. The padding weighs e^-87 there, which no float sum of at least 1 sees.
THAW_INLINE float SoftmaxRow(const AttentionShape& shape, const HeadTask& task, int64_t row,
                             float* scores, float* largest) {
  for (int64_t j = task.keys; j < task.keys_padded; ++j) scores[j] = -1e30f;
  Floats top = All(-1e30f);
  for (int64_t j = 0; j < task.keys_padded; j += kLanes) top = Larger(top, Load(scores + j));
  *largest = LargestOf(top);
  Floats sum = {};
  for (int64_t j = 0; j < task.keys_padded; j += kLanes) {
    const Floats e = Exp(Load(scores + j) - *largest);
    Store(scores + j, e);
    sum += e;
  }
  for (int64_t j = task.keys; j < task.keys_padded; ++j) scores[j] = 0;
  if (shape.dropout.active()) {
    float factors[kDropoutBlock];
    for (int64_t j0 = 0; j0 < task.keys_padded; j0 += kDropoutBlock) {
      DropoutFactors(shape.dropout, static_cast<uint32_t>(row), static_cast<uint32_t>(task.head),
                     j0 / kDropoutBlock, factors);
      const int64_t end = Smaller(j0 + kDropoutBlock, task.keys_padded);
      for (int64_t j = j0; j < end; j += kLanes) {
        Store(scores + j, Load(scores + j) * Load(factors + j - j0));
      }
    }
  }
  return SumOf(sum);
}

void AttendHead(const AttentionShape& shape, int64_t index, const float* q, const float* k,
                const float* v, float* out, float* log_sums) {
  const HeadTask task(shape, index);
  float* keys = ThreadScratch(
      static_cast<size_t>(task.dim * task.keys_padded + task.keys * task.dim_padded +
                          kQueryBlock * task.keys_padded + 2 * kQueryBlock * task.dim_padded));
  float* values = keys + task.dim * task.keys_padded;
  float* scores = values + task.keys * task.dim_padded;
  float* queries = scores + kQueryBlock * task.keys_padded;
  float* results = queries + kQueryBlock * task.dim_padded;
  PackTransposed(task.keys, task.keys_padded, task.dim, k + task.k_offset, shape.k_stride, keys);
  PackRows(task.keys, task.dim, task.dim_padded, v + task.k_offset, shape.k_stride, 1, values);
  PrefetchNextHead(shape, task, task.keys, k + task.k_offset, shape.k_stride);
  PrefetchNextHead(shape, task, task.keys, v + task.k_offset, shape.k_stride);
  PrefetchNextHead(shape, task, task.queries, q + task.q_offset, shape.q_stride);

  for (int64_t first = 0; first < task.queries; first += kQueryBlock) {
    const int64_t rows = Smaller(kQueryBlock, task.queries - first);
    PackRows(rows, task.dim, task.dim_padded, q + task.q_offset + first * shape.q_stride,
             shape.q_stride, shape.scale, queries);
    Matmul(rows, task.keys_padded, task.dim, {queries, task.dim_padded, 1}, keys, task.keys_padded,
           scores, task.keys_padded, false);
    float sums[kQueryBlock];
    for (int64_t i = 0; i < rows; ++i) {
      float largest;
      const int64_t row = task.q_first + first + i;
      sums[i] = SoftmaxRow(shape, task, row, scores + i * task.keys_padded, &largest);
      log_sums[row * shape.heads + task.head] = largest + __builtin_logf(sums[i]);
    }
    Matmul(rows, task.dim_padded, task.keys, {scores, task.keys_padded, 1}, values, task.dim_padded,
           results, task.dim_padded, false);
    for (int64_t i = 0; i < rows; ++i) {
      float* to = out + task.q_offset + (first + i) * shape.q_stride;
      const float* from = results + i * task.dim_padded;
      const float factor = 1 / sums[i];
      OverColumns(0, task.dim,
                  [&](int64_t c, int64_t n) { StoreUpTo(to + c, Load(from + c) * factor, n); });
    }
  }
}

// Row of scores s and of d (gradients of the dropped-out weights): s becomes the dropped-out
// weights, d the gradients of the scores.
THAW_INLINE void SoftmaxBackwardRow(const AttentionShape& shape, const HeadTask& task, int64_t row,
                                    float log_sum, float inner, float* s, float* d) {
  float factors[kDropoutBlock];
  for (int64_t j0 = 0; j0 < task.keys_padded; j0 += kDropoutBlock) {
    const int64_t end = Smaller(j0 + kDropoutBlock, task.keys_padded);
    if (shape.dropout.active()) {
      DropoutFactors(shape.dropout, static_cast<uint32_t>(row), static_cast<uint32_t>(task.head),
                     j0 / kDropoutBlock, factors);
      for (int64_t j = j0; j < end; j += kLanes) {
        const Floats p = Exp(Load(s + j) - log_sum), factor = Load(factors + j - j0);
        Store(s + j, p * factor);
        Store(d + j, p * (Load(d + j) * factor - inner));
      }
    } else {
      for (int64_t j = j0; j < end; j += kLanes) {
        const Floats p = Exp(Load(s + j) - log_sum);
        Store(s + j, p);
        Store(d + j, p * (Load(d + j) - inner));
      }
    }
  }
  for (int64_t j = task.keys; j < task.keys_padded; ++j) s[j] = d[j] = 0;
}

void AttendHeadBackward(const AttentionShape& shape, int64_t index, const float* q, const float* k,
                        const float* v, const float* out, const float* log_sums, const float* d_out,
                        float* d_q, float* d_k, float* d_v) {
  const HeadTask task(shape, index);
  const int64_t transposed = task.dim * task.keys_padded, packed = task.keys * task.dim_padded;
  const int64_t scores_size = kQueryBlock * task.keys_padded;
  const int64_t block_size = kQueryBlock * task.dim_padded;
  float* keys_t = ThreadScratch(
      static_cast<size_t>(2 * transposed + 3 * packed + 2 * scores_size + 3 * block_size));
  float* values_t = keys_t + transposed;
  float* keys = values_t + transposed;
  float* d_keys = keys + packed;
  float* d_values = d_keys + packed;
  float* weights = d_values + packed;
  float* d_weights = weights + scores_size;
  float* queries = d_weights + scores_size;
  float* d_results = queries + block_size;
  float* d_queries = d_results + block_size;
  PackTransposed(task.keys, task.keys_padded, task.dim, k + task.k_offset, shape.k_stride, keys_t);
  PackTransposed(task.keys, task.keys_padded, task.dim, v + task.k_offset, shape.k_stride,
                 values_t);
  PackRows(task.keys, task.dim, task.dim_padded, k + task.k_offset, shape.k_stride, shape.scale,
           keys);
  for (const float* strip : {k, v}) {
    PrefetchNextHead(shape, task, task.keys, strip + task.k_offset, shape.k_stride);
  }
  for (const float* strip : {q, out, d_out}) {
    PrefetchNextHead(shape, task, task.queries, strip + task.q_offset, shape.q_stride);
  }

  for (int64_t first = 0; first < task.queries; first += kQueryBlock) {
    const int64_t rows = Smaller(kQueryBlock, task.queries - first);
    const int64_t offset = task.q_offset + first * shape.q_stride;
    PackRows(rows, task.dim, task.dim_padded, q + offset, shape.q_stride, shape.scale, queries);
    PackRows(rows, task.dim, task.dim_padded, d_out + offset, shape.q_stride, 1, d_results);
    Matmul(rows, task.keys_padded, task.dim, {queries, task.dim_padded, 1}, keys_t,
           task.keys_padded, weights, task.keys_padded, false);
    Matmul(rows, task.keys_padded, task.dim, {d_results, task.dim_padded, 1}, values_t,
           task.keys_padded, d_weights, task.keys_padded, false);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t row = task.q_first + first + i;
      const float* result = out + offset + i * shape.q_stride;
      Floats inner = {};
      OverColumns(0, task.dim, [&](int64_t c, int64_t n) {
        inner += LoadUpTo(result + c, n) * Load(d_results + i * task.dim_padded + c);
      });
      SoftmaxBackwardRow(shape, task, row, log_sums[row * shape.heads + task.head], SumOf(inner),
                         weights + i * task.keys_padded, d_weights + i * task.keys_padded);
    }
    const bool later = first > 0;
    Matmul(task.keys, task.dim_padded, rows, {weights, 1, task.keys_padded}, d_results,
           task.dim_padded, d_values, task.dim_padded, later);
    Matmul(task.keys, task.dim_padded, rows, {d_weights, 1, task.keys_padded}, queries,
           task.dim_padded, d_keys, task.dim_padded, later);
    Matmul(rows, task.dim_padded, task.keys, {d_weights, task.keys_padded, 1}, keys,
           task.dim_padded, d_queries, task.dim_padded, false);
    UnpackRows(rows, task.dim, task.dim_padded, d_queries, d_q + offset, shape.q_stride);
  }
  UnpackRows(task.keys, task.dim, task.dim_padded, d_keys, d_k + task.k_offset, shape.k_stride);
  UnpackRows(task.keys, task.dim, task.dim_padded, d_values, d_v + task.k_offset, shape.k_stride);
}

void AttentionForward(const AttentionShape& shape, const float* q, const float* k, const float* v,
                      float* out, float* log_sums) {
  const int64_t tasks = static_cast<int64_t>(shape.sequences) * shape.heads;
#pragma omp parallel for schedule(dynamic)
  for (int64_t task = 0; task < tasks; ++task) AttendHead(shape, task, q, k, v, out, log_sums);
}

void AttentionBackward(const AttentionShape& shape, const float* q, const float* k, const float* v,
                       const float* out, const float* log_sums, const float* d_out, float* d_q,
                       float* d_k, float* d_v) {
  const int64_t tasks = static_cast<int64_t>(shape.sequences) * shape.heads;
#pragma omp parallel for schedule(dynamic)
  for (int64_t task = 0; task < tasks; ++task) {
    AttendHeadBackward(shape, task, q, k, v, out, log_sums, d_out, d_q, d_k, d_v);
  }
}

}  // namespace
}  // namespace thaw
