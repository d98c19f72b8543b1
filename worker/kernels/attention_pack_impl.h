// What a task of attention works on: one key head of one sequence with the query heads that share
// it, and packing for the small matrix products. See simd.h for how this is included.
#pragma once

#include "worker/kernels/kernels.h"
#include "worker/kernels/simd.h"

namespace thaw {
namespace {

// Columns [first, end).
struct KeyRange {
  int64_t first, end;
};

struct AttentionTask {
  AttentionTask(const AttentionShape& shape, int64_t index)
      : kv_head(index % shape.kv_heads),
        group(shape.heads / shape.kv_heads),
        sequence(index / shape.kv_heads),
        q_first(shape.q_bounds[sequence]),
        queries(shape.q_bounds[sequence + 1] - q_first),
        k_first(shape.k_bounds[sequence]),
        keys(shape.k_bounds[sequence + 1] - k_first),
        keys_padded(RoundUp(keys, kLanes)),
        // An odd number of cache lines: rows of a power of two would share few sets of the cache.
        keys_stride(RoundUp(keys, 16) / 16 % 2 == 0 ? RoundUp(keys, 16) + 16 : RoundUp(keys, 16)),
        dim(shape.head_dim),
        dim_padded(RoundUp(dim, kLanes)),
        kv_offset(k_first * shape.kv.row + kv_head * shape.kv.head) {}

  int64_t kv_head, group, sequence, q_first, queries, k_first, keys, keys_padded, keys_stride, dim,
      dim_padded, kv_offset;
};

// The keys that query `i` of the sequence sees.
THAW_INLINE KeyRange SeenKeys(const AttentionShape& shape, const AttentionTask& task, int64_t i) {
  const int64_t position = i + task.keys - task.queries;
  KeyRange seen = {0, task.keys};
  if (shape.causal) seen.end = position + 1;
  if (shape.window > 0 && position >= shape.window) seen.first = position - shape.window + 1;
  return seen;
}

THAW_INLINE KeyRange WholeVectors(KeyRange range) {
  return {range.first / kLanes * kLanes, RoundUp(range.end, kLanes)};
}

// scores[j] += the bias of key j for a query at `position`, over [first, end).
THAW_INLINE void AddRelativeBias(const float* relative_bias, int64_t span, int64_t head,
                                 int64_t position, int64_t first, int64_t end, float* scores) {
  const float* centre = relative_bias + head * (2 * span - 1) + span - 1;
  int64_t j = first;
  const int64_t near = Smaller(position - span + 1, end), far = Smaller(position + span, end);
  for (; j < near; ++j) scores[j] += centre[1 - span];
  OverColumns(j, far, [&](int64_t c, int64_t n) {
    StoreUpTo(scores + c, LoadUpTo(scores + c, n) + LoadUpTo(centre + c - position, n), n);
  });
  for (j = j > far ? j : far; j < end; ++j) scores[j] += centre[span - 1];
}

// to[c][r] = from[r][c], rows padded with zeros to whole vectors.
template <typename T>
THAW_INLINE void PackTransposed(int64_t rows, int64_t columns, const T* from, int64_t from_stride,
                                float* to, int64_t to_stride) {
  for (int64_t r0 = 0; r0 < rows; r0 += kLanes) {
    OverColumns(0, columns, [&](int64_t c0, int64_t width) {
      Floats square[kLanes];
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes; ++i) {
        square[i] = r0 + i < rows ? LoadUpTo(from + (r0 + i) * from_stride + c0, width) : Floats{};
      }
      Transpose(square);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes; ++i) {
        if (i < width) Store(to + (c0 + i) * to_stride + r0, square[i]);
      }
    });
  }
}

// to[r][c] = scale * from[r][c], columns padded with zeros.
template <typename T>
THAW_INLINE void PackRows(int64_t rows, int64_t columns, int64_t columns_padded, const T* from,
                          int64_t stride, float scale, float* to) {
  for (int64_t r = 0; r < rows; ++r) {
    OverColumns(0, columns, [&](int64_t c, int64_t n) {
      Store(to + r * columns_padded + c, LoadUpTo(from + r * stride + c, n) * scale);
    });
  }
}

// to[r][c] = from[r][c], from a padded matrix.
template <typename T>
THAW_INLINE void UnpackRows(int64_t rows, int64_t columns, int64_t columns_padded,
                            const float* from, T* to, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    OverColumns(0, columns, [&](int64_t c, int64_t n) {
      StoreUpTo(to + r * stride + c, Load(from + r * columns_padded + c), n);
    });
  }
}

// A head is a narrow strip of the matrix, which the processor does not foresee: asks for the next
// head's while this one is computed.
template <typename T>
THAW_INLINE void PrefetchStrip(int64_t rows, int64_t dim, const T* strip, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < dim; c += static_cast<int64_t>(64 / sizeof(T)))
      __builtin_prefetch(strip + r * stride + c, 0, 2);
  }
}

}  // namespace
}  // namespace thaw
