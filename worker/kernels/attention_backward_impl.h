// See attention_impl.h.
#pragma once

#include "worker/kernels/attention_impl.h"

namespace thaw {
namespace {

// Row of scores s and of d (gradients of the dropped-out weights): s becomes the dropped-out
// weights, d the gradients of the scores, both 0 where the query does not see.
THAW_INLINE void SoftmaxBackwardRow(const AttentionShape& shape, const AttentionTask& task,
                                    int64_t head, int64_t i, KeyRange block, float log_sum,
                                    float inner, float* s, float* d) {
  const KeyRange seen = SeenKeys(shape, task, i), whole = WholeVectors(seen);
  if (shape.relative_bias != nullptr) {
    AddRelativeBias(shape.relative_bias, shape.bias_span, head, i + task.keys - task.queries,
                    seen.first, seen.end, s);
  }
  if (shape.dropout.active()) {
    float factors[kDropoutBlock];
    for (int64_t j = whole.first; j < whole.end;) {
      const int64_t j0 = j / kDropoutBlock * kDropoutBlock;
      DropoutFactors(shape.dropout, static_cast<uint32_t>(task.q_first + i),
                     static_cast<uint32_t>(head), j0 / kDropoutBlock, factors);
      for (const int64_t end = Smaller(j0 + kDropoutBlock, whole.end); j < end; j += kLanes) {
        const Floats p = Exp(Load(s + j) - log_sum), factor = Load(factors + j - j0);
        Store(s + j, p * factor);
        Store(d + j, p * (Load(d + j) * factor - inner));
      }
    }
  } else {
    for (int64_t j = whole.first; j < whole.end; j += kLanes) {
      const Floats p = Exp(Load(s + j) - log_sum);
      Store(s + j, p);
      Store(d + j, p * (Load(d + j) - inner));
    }
  }
  for (int64_t j = block.first; j < seen.first; ++j) s[j] = d[j] = 0;
  for (int64_t j = seen.end; j < block.end; ++j) s[j] = d[j] = 0;
}

// The gradients of the biases of one sequence and head, [queries + keys] at j - position + keys -
// 1, lie side by side; see SumBiasGradients.
THAW_INLINE int64_t BiasGradientOffset(const AttentionShape& shape, int64_t sequence) {
  return shape.heads * (int64_t{shape.q_bounds[sequence]} - shape.q_bounds[0] +
                        shape.k_bounds[sequence] - shape.k_bounds[0]);
}

// Adds up over the sequences, in order.
void SumBiasGradients(const AttentionShape& shape, const float* partial, float* sums) {
  const int64_t width = 2 * shape.bias_span - 1;
  ParallelFor(shape.heads, [=, &shape](int64_t head) {
    float* to = sums + head * width;
    std::memset(to, 0, static_cast<size_t>(width) * sizeof(float));
    for (int32_t s = 0; s < shape.sequences; ++s) {
      const int64_t queries = shape.q_bounds[s + 1] - shape.q_bounds[s];
      const int64_t keys = shape.k_bounds[s + 1] - shape.k_bounds[s];
      const float* from = partial + BiasGradientOffset(shape, s) + head * (queries + keys);
      for (int64_t n = 0; n < queries + keys; ++n) {
        const int64_t column = n + shape.bias_span - keys;
        to[column < 0 ? 0 : Smaller(column, width - 1)] += from[n];
      }
    }
  });
}

template <typename T>
void AttendTaskBackward(const AttentionShape& shape, int64_t index, const T* q, const T* k,
                        const T* v, const T* out, const float* log_sums, const T* d_out, T* d_q,
                        T* d_k, T* d_v, float* d_biases) {
  const AttentionTask task(shape, index);
  const int64_t transposed = task.dim * task.keys_stride, packed = task.keys * task.dim_padded;
  const int64_t scores_size = kQueryBlock * task.keys_stride;
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
  PackTransposed(task.keys, task.dim, k + task.kv_offset, shape.kv.row, keys_t, task.keys_stride);
  PackTransposed(task.keys, task.dim, v + task.kv_offset, shape.kv.row, values_t, task.keys_stride);
  PackRows(task.keys, task.dim, task.dim_padded, k + task.kv_offset, shape.kv.row, shape.scale,
           keys);
  std::memset(d_keys, 0, static_cast<size_t>(2 * packed) * sizeof(float));
  if (task.kv_head + 1 < shape.kv_heads) {
    for (const T* strip : {k, v}) {
      PrefetchStrip(task.keys, task.dim, strip + task.kv_offset + shape.kv.head, shape.kv.row);
    }
  }

  for (int64_t head = task.kv_head * task.group; head < (task.kv_head + 1) * task.group; ++head) {
    const int64_t q_offset = task.q_first * shape.q.row + head * shape.q.head;
    T* head_d_q = d_q + task.q_first * shape.d_q.row + head * shape.d_q.head;
    const int64_t out_offset = task.q_first * shape.out.row + head * shape.out.head;
    float* d_bias = d_biases == nullptr ? nullptr
                                        : d_biases + BiasGradientOffset(shape, task.sequence) +
                                              head * (task.queries + task.keys) + task.keys - 1;
    if (head + 1 < shape.heads) {
      PrefetchStrip(task.queries, task.dim, q + q_offset + shape.q.head, shape.q.row);
      for (const T* strip : {out, d_out}) {
        PrefetchStrip(task.queries, task.dim, strip + out_offset + shape.out.head, shape.out.row);
      }
    }
    for (int64_t first = 0; first < task.queries; first += kQueryBlock) {
      const int64_t rows = Smaller(kQueryBlock, task.queries - first);
      const KeyRange seen = {SeenKeys(shape, task, first).first,
                             SeenKeys(shape, task, first + rows - 1).end};
      const KeyRange block = WholeVectors(seen);
      const int64_t width = block.end - block.first, depth = seen.end - block.first;
      const int64_t block_offset = block.first * task.dim_padded;
      PackRows(rows, task.dim, task.dim_padded, q + q_offset + first * shape.q.row, shape.q.row,
               shape.scale, queries);
      PackRows(rows, task.dim, task.dim_padded, d_out + out_offset + first * shape.out.row,
               shape.out.row, 1, d_results);
      Matmul(rows, width, task.dim, {queries, task.dim_padded, 1}, keys_t + block.first,
             task.keys_stride, weights + block.first, task.keys_stride, false);
      Matmul(rows, width, task.dim, {d_results, task.dim_padded, 1}, values_t + block.first,
             task.keys_stride, d_weights + block.first, task.keys_stride, false);
      for (int64_t i = 0; i < rows; ++i) {
        const T* result = out + out_offset + (first + i) * shape.out.row;
        Floats inner = {};
        OverColumns(0, task.dim, [&](int64_t c, int64_t n) {
          inner += LoadUpTo(result + c, n) * Load(d_results + i * task.dim_padded + c);
        });
        float* d = d_weights + i * task.keys_stride;
        SoftmaxBackwardRow(shape, task, head, first + i, block,
                           log_sums[(task.q_first + first + i) * shape.heads + head], SumOf(inner),
                           weights + i * task.keys_stride, d);
        if (d_bias == nullptr) continue;
        const KeyRange row = SeenKeys(shape, task, first + i);
        float* to = d_bias - (first + i + task.keys - task.queries);
        OverColumns(row.first, row.end, [&](int64_t j, int64_t n) {
          StoreUpTo(to + j, LoadUpTo(to + j, n) + LoadUpTo(d + j, n), n);
        });
      }
      Matmul(depth, task.dim_padded, rows, {weights + block.first, 1, task.keys_stride}, d_results,
             task.dim_padded, d_values + block_offset, task.dim_padded, true);
      Matmul(depth, task.dim_padded, rows, {d_weights + block.first, 1, task.keys_stride}, queries,
             task.dim_padded, d_keys + block_offset, task.dim_padded, true);
      Matmul(rows, task.dim_padded, depth, {d_weights + block.first, task.keys_stride, 1},
             keys + block_offset, task.dim_padded, d_queries, task.dim_padded, false);
      UnpackRows(rows, task.dim, task.dim_padded, d_queries, head_d_q + first * shape.d_q.row,
                 shape.d_q.row);
    }
  }
  const int64_t d_offset = task.k_first * shape.d_kv.row + task.kv_head * shape.d_kv.head;
  UnpackRows(task.keys, task.dim, task.dim_padded, d_keys, d_k + d_offset, shape.d_kv.row);
  UnpackRows(task.keys, task.dim, task.dim_padded, d_values, d_v + d_offset, shape.d_kv.row);
}

void AttentionBackward(const AttentionShape& shape, ConstElements q, ConstElements k,
                       ConstElements v, ConstElements out, const float* log_sums,
                       ConstElements d_out, Elements d_q, Elements d_k, Elements d_v,
                       float* d_relative_bias) {
  float* d_biases = nullptr;
  if (d_relative_bias != nullptr) {
    const size_t size = static_cast<size_t>(BiasGradientOffset(shape, shape.sequences));
    d_biases = SharedScratch(size);
    std::memset(d_biases, 0, size * sizeof(float));
  }
  WithType(q.type, [=, &shape](auto type) {
    using T = decltype(type);
    ParallelForUneven(int64_t{shape.sequences} * shape.kv_heads, [=, &shape](int64_t task) {
      AttendTaskBackward(shape, task, As<T>(q), As<T>(k), As<T>(v), As<T>(out), log_sums,
                         As<T>(d_out), As<T>(d_q), As<T>(d_k), As<T>(d_v), d_biases);
    });
  });
  if (d_relative_bias != nullptr) SumBiasGradients(shape, d_biases, d_relative_bias);
}

}  // namespace
}  // namespace thaw
