// Products of few rows with a large matrix, which is read once, as it lies, at the speed of
// memory. An element's sum is taken in the same order whatever the other rows and the threads are.
// See simd.h for how this is included.
#pragma once

#include <omp.h>

#include "worker/kernels/kernels.h"
#include "worker/kernels/parallel_impl.h"
#include "worker/kernels/scratch.h"

namespace thaw {
namespace {

// `sum` and n products more.
template <typename T>
__attribute__((noinline)) float AddDot(int64_t n, const T* x, const T* w, float sum) {
  for (int64_t i = 0; i < n; ++i) sum += ValueOf(x[i]) * ValueOf(w[i]);
  return sum;
}
THAW_INLINE void StoreOne(float* to, float value) { *to = value; }
THAW_INLINE void StoreOne(Bf16* to, float value) { to->bits = Rounded(All(value))[0]; }

// kOutputs x kRows dot products along rows of w, whose next tile is asked for meanwhile.
template <int kOutputs, int kRows, typename T>
THAW_INLINE void DotTile(int64_t in, const T* x, const T* w, int64_t next, Floats bias, T* y,
                         int64_t out) {
  Floats sums[kRows][kOutputs] = {};
  int64_t i = 0;
  for (; i + kLanes <= in; i += kLanes) {
    Floats line[kOutputs];
#pragma GCC unroll 8
    for (int o = 0; o < kOutputs; ++o) {
      line[o] = Load(w + o * in + i);
      __builtin_prefetch(w + next + o * in + i, 0, 2);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Floats a = Load(x + r * in + i);
#pragma GCC unroll 8
      for (int o = 0; o < kOutputs; ++o) sums[r][o] += a * line[o];
    }
  }
  // Unrolled, or the sums would live in memory, and adding them up would take longer than the rest.
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    float totals[kOutputs];
    SumsOf<kOutputs>(sums[r], totals);
#pragma GCC unroll 8
    for (int o = 0; o < kOutputs; ++o) {
      if (i < in) totals[o] = AddDot(in - i, x + r * in + i, w + o * in + i, totals[o]);
      StoreOne(y + r * out + o, totals[o] + bias[o]);
    }
  }
}

// All rows against kOutputs outputs.
template <int kOutputs, typename T>
THAW_INLINE void DotRows(int64_t rows, int64_t in, const T* x, const T* w, int64_t next,
                         Floats bias, T* y, int64_t out) {
  for (; rows >= 4; rows -= 4, x += 4 * in, y += 4 * out) {
    DotTile<kOutputs, 4>(in, x, w, next, bias, y, out);
  }
  switch (rows) {
    case 3:
      return DotTile<kOutputs, 3>(in, x, w, next, bias, y, out);
    case 2:
      return DotTile<kOutputs, 2>(in, x, w, next, bias, y, out);
    case 1:
      return DotTile<kOutputs, 1>(in, x, w, next, bias, y, out);
    default:
      return;
  }
}

template <typename T>
void SkinnyMatmulOutIn(int64_t rows, int64_t in, int64_t out, const T* x, const T* weight,
                       const float* bias, T* y) {
  ParallelFor((out + 3) / 4, [=](int64_t tile) {
    const int64_t o = tile * 4, n = Smaller(4, out - o);
    Floats biases = {};
    if (bias != nullptr) {
      for (int64_t j = 0; j < n; ++j) biases[j] = bias[o + j];
    }
    const int64_t next = o + 8 <= out ? 4 * in : 0;
    const T* w = weight + o * in;
    if (n == 4) return DotRows<4>(rows, in, x, w, next, biases, y + o, out);
    for (int64_t j = 0; j < n; ++j) {
      DotRows<1>(rows, in, x, w + j * in, 0, All(biases[j]), y + o + j, out);
    }
  });
}

constexpr int64_t kDepthBlock = 8;  // rows of w read side by side

// y += x w for kRows rows of x and `depth` rows of w, whose rows are `out` apart.
template <int kRows, int kVectors, typename T>
THAW_INLINE void AddTile(int64_t depth, const T* x, int64_t in, const T* w, int64_t out,
                         int64_t ahead, float* y, int64_t y_stride) {
  Floats sums[kRows][kVectors];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[r][v] = Load(y + r * y_stride + v * kLanes);
  }
  for (int64_t k = 0; k < depth; ++k) {
    Floats line[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      line[v] = Load(w + k * out + v * kLanes);
      __builtin_prefetch(w + k * out + v * kLanes + ahead, 0, 2);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Floats a = All(ValueOf(x[r * in + k]));
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] += a * line[v];
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) Store(y + r * y_stride + v * kLanes, sums[r][v]);
  }
}

template <int kVectors, typename T>
THAW_INLINE void AddRows(int64_t rows, int64_t depth, const T* x, int64_t in, const T* w,
                         int64_t out, int64_t ahead, float* y, int64_t y_stride) {
  for (; rows >= 4; rows -= 4, x += 4 * in, y += 4 * y_stride) {
    AddTile<4, kVectors>(depth, x, in, w, out, ahead, y, y_stride);
  }
  switch (rows) {
    case 3:
      return AddTile<3, kVectors>(depth, x, in, w, out, ahead, y, y_stride);
    case 2:
      return AddTile<2, kVectors>(depth, x, in, w, out, ahead, y, y_stride);
    case 1:
      return AddTile<1, kVectors>(depth, x, in, w, out, ahead, y, y_stride);
    default:
      return;
  }
}

// Where the sums of columns [first, end) are built up, `*stride` apart: in the result itself, or in
// scratch.
THAW_INLINE float* SumsInTheMaking(float* y, int64_t, int64_t first, int64_t, int64_t*) {
  return y + first;
}
THAW_INLINE float* SumsInTheMaking(Bf16*, int64_t rows, int64_t first, int64_t end,
                                   int64_t* stride) {
  *stride = end - first;
  return ThreadScratch(static_cast<size_t>(rows * *stride));
}

template <typename T>
void SkinnyMatmulInOut(int64_t rows, int64_t in, int64_t out, const T* x, const T* weight,
                       const float* bias, T* y) {
  // A thread's columns side by side: long runs of every row of w.
  const int64_t parts = omp_get_max_threads();
  const int64_t width = RoundUp((out + parts - 1) / parts, 4 * kLanes);
  ParallelFor((out + width - 1) / width, [=](int64_t part) {
    const int64_t first = part * width, end = Smaller(first + width, out);
    int64_t stride = out;
    float* const sums = SumsInTheMaking(y, rows, first, end, &stride) - first;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = first; c < end; ++c) sums[r * stride + c] = bias == nullptr ? 0 : bias[c];
    }
    for (int64_t k = 0; k < in; k += kDepthBlock) {
      const int64_t depth = Smaller(kDepthBlock, in - k);
      const int64_t ahead = k + 2 * kDepthBlock <= in ? kDepthBlock * out : 0;
      const T* w = weight + k * out;
      int64_t c = first;
      for (; c + 4 * kLanes <= end; c += 4 * kLanes) {
        AddRows<4>(rows, depth, x + k, in, w + c, out, ahead, sums + c, stride);
      }
      for (; c + kLanes <= end; c += kLanes) {
        AddRows<1>(rows, depth, x + k, in, w + c, out, ahead, sums + c, stride);
      }
      for (; c < end; ++c) {
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t d = 0; d < depth; ++d) {
            sums[r * stride + c] += ValueOf(x[r * in + k + d]) * ValueOf(w[d * out + c]);
          }
        }
      }
    }
    if constexpr (std::is_same_v<T, Bf16>) {
      for (int64_t r = 0; r < rows; ++r) {
        OverColumns(first, end, [&](int64_t c, int64_t n) {
          StoreUpTo(y + r * out + c, LoadUpTo(sums + r * stride + c, n), n);
        });
      }
    }
  });
}

void SkinnyMatmul(WeightLayout layout, int64_t rows, int64_t in, int64_t out, ConstElements x,
                  ConstElements weight, const float* bias, Elements y) {
  WithType(x.type, [=](auto type) {
    using T = decltype(type);
    if (layout == WeightLayout::kOutIn) {
      return SkinnyMatmulOutIn(rows, in, out, As<T>(x), As<T>(weight), bias, As<T>(y));
    }
    SkinnyMatmulInOut(rows, in, out, As<T>(x), As<T>(weight), bias, As<T>(y));
  });
}

}  // namespace
}  // namespace thaw
