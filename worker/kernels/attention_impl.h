// Attention per (sequence, key head): keys and values are packed once for all query heads that
// share them, queries come in blocks whose scores stay in the cache, so the softmax sees whole rows
// and nothing is padded. A block is multiplied only with the keys that one of its queries sees. See
// simd.h for how this is included.
#pragma once

#include <initializer_list>

#include "worker/kernels/attention_pack_impl.h"
#include "worker/kernels/matmul_impl.h"
#include "worker/kernels/parallel_impl.h"
#include "worker/kernels/random_impl.h"
#include "worker/kernels/scratch.h"

namespace thaw {
namespace {

constexpr int64_t kQueryBlock = 24;  // rows; a multiple of kTileRows
constexpr float kUnseen = -1e30f;    // its weight e^-87 is nothing in a float sum of at least 1

// Turns the scores of query `i` over `block` into e^(score - largest), dropped out if asked for;
// returns the sum before dropout. What the query does not see becomes 0.
THAW_INLINE float SoftmaxRow(const AttentionShape& shape, const AttentionTask& task, int64_t head,
                             int64_t i, KeyRange block, float* scores, float* largest) {
  const KeyRange seen = SeenKeys(shape, task, i), whole = WholeVectors(seen);
  if (shape.relative_bias != nullptr) {
    AddRelativeBias(shape.relative_bias, shape.bias_span, head, i + task.keys - task.queries,
                    seen.first, seen.end, scores);
  }
  for (int64_t j = whole.first; j < seen.first; ++j) scores[j] = kUnseen;
  for (int64_t j = seen.end; j < whole.end; ++j) scores[j] = kUnseen;
  Floats top = All(kUnseen);
  for (int64_t j = whole.first; j < whole.end; j += kLanes) top = Larger(top, Load(scores + j));
  *largest = LargestOf(top);
  Floats sum = {};
  for (int64_t j = whole.first; j < whole.end; j += kLanes) {
    const Floats e = Exp(Load(scores + j) - *largest);
    Store(scores + j, e);
    sum += e;
  }
  for (int64_t j = block.first; j < seen.first; ++j) scores[j] = 0;
  for (int64_t j = seen.end; j < block.end; ++j) scores[j] = 0;
  if (shape.dropout.active()) {
    float factors[kDropoutBlock];
    for (int64_t j = whole.first; j < whole.end;) {
      const int64_t j0 = j / kDropoutBlock * kDropoutBlock;
      DropoutFactors(shape.dropout, static_cast<uint32_t>(task.q_first + i),
                     static_cast<uint32_t>(head), j0 / kDropoutBlock, factors);
      for (const int64_t end = Smaller(j0 + kDropoutBlock, whole.end); j < end; j += kLanes) {
        Store(scores + j, Load(scores + j) * Load(factors + j - j0));
      }
    }
  }
  return SumOf(sum);
}

template <typename T>
void AttendTask(const AttentionShape& shape, int64_t index, const T* q, const T* k, const T* v,
                T* out, float* log_sums) {
  const AttentionTask task(shape, index);
  float* keys = ThreadScratch(
      static_cast<size_t>(task.dim * task.keys_stride + task.keys * task.dim_padded +
                          kQueryBlock * task.keys_stride + 2 * kQueryBlock * task.dim_padded));
  float* values = keys + task.dim * task.keys_stride;
  float* scores = values + task.keys * task.dim_padded;
  float* queries = scores + kQueryBlock * task.keys_stride;
  float* results = queries + kQueryBlock * task.dim_padded;
  PackTransposed(task.keys, task.dim, k + task.kv_offset, shape.kv.row, keys, task.keys_stride);
  PackRows(task.keys, task.dim, task.dim_padded, v + task.kv_offset, shape.kv.row, 1, values);
  if (task.kv_head + 1 < shape.kv_heads) {
    for (const T* strip : {k, v}) {
      PrefetchStrip(task.keys, task.dim, strip + task.kv_offset + shape.kv.head, shape.kv.row);
    }
  }

  for (int64_t head = task.kv_head * task.group; head < (task.kv_head + 1) * task.group; ++head) {
    const T* head_q = q + task.q_first * shape.q.row + head * shape.q.head;
    T* head_out = out + task.q_first * shape.out.row + head * shape.out.head;
    if (head + 1 < shape.heads) {
      PrefetchStrip(task.queries, task.dim, head_q + shape.q.head, shape.q.row);
    }
    for (int64_t first = 0; first < task.queries; first += kQueryBlock) {
      const int64_t rows = Smaller(kQueryBlock, task.queries - first);
      const KeyRange seen = {SeenKeys(shape, task, first).first,
                             SeenKeys(shape, task, first + rows - 1).end};
      const KeyRange block = WholeVectors(seen);
      PackRows(rows, task.dim, task.dim_padded, head_q + first * shape.q.row, shape.q.row,
               shape.scale, queries);
      Matmul(rows, block.end - block.first, task.dim, {queries, task.dim_padded, 1},
             keys + block.first, task.keys_stride, scores + block.first, task.keys_stride, false);
      float sums[kQueryBlock];
      for (int64_t i = 0; i < rows; ++i) {
        float largest;
        sums[i] = SoftmaxRow(shape, task, head, first + i, block, scores + i * task.keys_stride,
                             &largest);
        log_sums[(task.q_first + first + i) * shape.heads + head] =
            largest + __builtin_logf(sums[i]);
      }
      Matmul(rows, task.dim_padded, seen.end - block.first,
             {scores + block.first, task.keys_stride, 1}, values + block.first * task.dim_padded,
             task.dim_padded, results, task.dim_padded, false);
      for (int64_t i = 0; i < rows; ++i) {
        T* to = head_out + (first + i) * shape.out.row;
        const float* from = results + i * task.dim_padded;
        const float factor = 1 / sums[i];
        OverColumns(0, task.dim,
                    [&](int64_t c, int64_t n) { StoreUpTo(to + c, Load(from + c) * factor, n); });
      }
    }
  }
}

void AttentionForward(const AttentionShape& shape, ConstElements q, ConstElements k,
                      ConstElements v, Elements out, float* log_sums) {
  WithType(q.type, [=, &shape](auto type) {
    using T = decltype(type);
    ParallelForUneven(int64_t{shape.sequences} * shape.kv_heads, [=, &shape](int64_t task) {
      AttendTask(shape, task, As<T>(q), As<T>(k), As<T>(v), As<T>(out), log_sums);
    });
  });
}

}  // namespace
}  // namespace thaw
