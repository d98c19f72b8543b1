// Attention of few new queries to cached keys and values, which are read once, as they lie. See
// simd.h for how this is included.
#pragma once

#include "worker/kernels/attention_pack_impl.h"
#include "worker/kernels/kernels.h"
#include "worker/kernels/matmul_impl.h"
#include "worker/kernels/parallel_impl.h"
#include "worker/kernels/scratch.h"

namespace thaw {
namespace {

// q·k of kLanes keys, or of the first n.
template <typename T>
THAW_INLINE Floats DecodeScores(int64_t dim, const T* q, const T* k, int64_t stride, int64_t n) {
  Floats sums[kLanes] = {};
  if (n == kLanes) {
    OverColumns(0, dim, [&](int64_t c, int64_t width) {
      const Floats a = LoadUpTo(q + c, width);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes; ++i) sums[i] += a * LoadUpTo(k + i * stride + c, width);
    });
  } else {
    for (int64_t i = 0; i < n; ++i) {
      OverColumns(0, dim, [&](int64_t c, int64_t width) {
        sums[i] += LoadUpTo(q + c, width) * LoadUpTo(k + i * stride + c, width);
      });
    }
  }
  return SumsOf(sums);
}

// Scores over [first, end) become weights that add up to 1.
THAW_INLINE void DecodeSoftmax(const DecodeShape& shape, int64_t head, int64_t position,
                               int64_t first, int64_t end, float* scores) {
  const int64_t n = end - first;
  OverColumns(0, n, [&](int64_t j, int64_t width) {
    StoreUpTo(scores + j, LoadUpTo(scores + j, width) * shape.scale, width);
  });
  if (shape.relative_bias != nullptr) {
    AddRelativeBias(shape.relative_bias, shape.bias_span, head, position, first, end,
                    scores - first);
  }
  Floats top = All(-1e30f);
  OverColumns(0, n, [&](int64_t j, int64_t width) {
    Floats s = LoadUpTo(scores + j, width);
    for (int64_t i = width; i < kLanes; ++i) s[i] = -1e30f;
    Store(scores + j, s);
    top = Larger(top, s);
  });
  const float largest = LargestOf(top);
  Floats sum = {};
  for (int64_t j = 0; j < n; j += kLanes) {
    const Floats e = Exp(Load(scores + j) - largest);
    Store(scores + j, e);
    sum += e;
  }
  const float factor = 1 / SumOf(sum);
  for (int64_t j = 0; j < n; j += kLanes) Store(scores + j, Load(scores + j) * factor);
}

template <typename T>
void DecodeTask(const DecodeShape& shape, int64_t index, const T* q, T* out) {
  const CachedSequence& cached = shape.sequences[index / shape.kv_heads];
  const int64_t kv_head = index % shape.kv_heads, group = shape.heads / shape.kv_heads;
  const int64_t dim = shape.head_dim, whole = dim / kLanes * kLanes;
  const T* k = As<T>(cached.k) + kv_head * shape.kv.head;
  const T* v = As<T>(cached.v) + kv_head * shape.kv.head;
  const int64_t stride = RoundUp(cached.keys, kLanes);
  float* scores = ThreadScratch(static_cast<size_t>(group * (stride + dim)));
  float* results = scores + group * stride;
  for (int64_t i = 0; i < cached.queries; ++i) {
    const int64_t position = cached.keys - cached.queries + i, end = position + 1;
    const int64_t first =
        shape.window > 0 && position >= shape.window ? position - shape.window + 1 : 0;
    const int64_t row = cached.first_query + i;
    const T* queries = q + row * shape.q.row + kv_head * group * shape.q.head;
    for (int64_t j = first; j < end; j += kLanes) {
      const T* block = k + j * shape.kv.row;
      const int64_t n = Smaller(kLanes, end - j);
      if (j + 2 * kLanes <= end) {
        PrefetchStrip(kLanes, dim, block + kLanes * shape.kv.row, shape.kv.row);
      }
      for (int64_t g = 0; g < group; ++g) {
        Store(scores + g * stride + j - first,
              DecodeScores(dim, queries + g * shape.q.head, block, shape.kv.row, n));
      }
    }
    for (int64_t g = 0; g < group; ++g) {
      DecodeSoftmax(shape, kv_head * group + g, position, first, end, scores + g * stride);
    }
    Matmul(group, whole, end - first, {scores, stride, 1}, v + first * shape.kv.row, shape.kv.row,
           results, dim, false);
    for (int64_t g = 0; g < group; ++g) {
      for (int64_t c = whole; c < dim; ++c) {
        float sum = 0;
        for (int64_t j = first; j < end; ++j) {
          sum += scores[g * stride + j - first] * ValueOf(v[j * shape.kv.row + c]);
        }
        results[g * dim + c] = sum;
      }
      T* to = out + row * shape.out.row + (kv_head * group + g) * shape.out.head;
      OverColumns(0, dim, [&](int64_t c, int64_t n) {
        StoreUpTo(to + c, LoadUpTo(results + g * dim + c, n), n);
      });
    }
  }
}

void AttentionDecode(const DecodeShape& shape, ConstElements q, Elements out) {
  WithType(q.type, [=, &shape](auto type) {
    using T = decltype(type);
    ParallelForUneven(int64_t{shape.count} * shape.kv_heads,
                      [=, &shape](int64_t task) { DecodeTask(shape, task, As<T>(q), As<T>(out)); });
  });
}

}  // namespace
}  // namespace thaw
