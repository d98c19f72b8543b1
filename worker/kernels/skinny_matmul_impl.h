// Products of few rows with a large matrix, which is read once, as it lies, at the speed of
// memory. An element's sum is taken in the same order whatever the other rows and the threads are.
// See simd.h for how this is included.
#pragma once

#include <omp.h>

#include "worker/kernels/kernels.h"
#include "worker/kernels/parallel_impl.h"

namespace thaw {
namespace {

// `sum` and n products more.
__attribute__((noinline)) float AddDot(int64_t n, const float* x, const float* w, float sum) {
  for (int64_t i = 0; i < n; ++i) sum += x[i] * w[i];
  return sum;
}

// kOutputs x kRows dot products along rows of w, whose next tile is asked for meanwhile.
template <int kOutputs, int kRows>
THAW_INLINE void DotTile(int64_t in, const float* x, const float* w, int64_t next, Floats bias,
                         float* y, int64_t out) {
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
      y[r * out + o] = totals[o] + bias[o];
    }
  }
}

// All rows against kOutputs outputs.
template <int kOutputs>
THAW_INLINE void DotRows(int64_t rows, int64_t in, const float* x, const float* w, int64_t next,
                         Floats bias, float* y, int64_t out) {
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

void SkinnyMatmulOutIn(int64_t rows, int64_t in, int64_t out, const float* x, const float* weight,
                       const float* bias, float* y) {
  ParallelFor((out + 3) / 4, [=](int64_t tile) {
    const int64_t o = tile * 4, n = Smaller(4, out - o);
    Floats biases = {};
    if (bias != nullptr) {
      for (int64_t j = 0; j < n; ++j) biases[j] = bias[o + j];
    }
    const int64_t next = o + 8 <= out ? 4 * in : 0;
    const float* w = weight + o * in;
    if (n == 4) return DotRows<4>(rows, in, x, w, next, biases, y + o, out);
    for (int64_t j = 0; j < n; ++j) {
      DotRows<1>(rows, in, x, w + j * in, 0, All(biases[j]), y + o + j, out);
    }
  });
}

constexpr int64_t kDepthBlock = 8;  // rows of w read side by side

// y += x w for kRows rows of x, kDepth rows of w and columns [first, end) of w.
template <int kRows, int kVectors>
THAW_INLINE void AddTile(int64_t depth, const float* x, int64_t in, const float* w, int64_t ahead,
                         float* y, int64_t out) {
  Floats sums[kRows][kVectors];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[r][v] = Load(y + r * out + v * kLanes);
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
      const Floats a = All(x[r * in + k]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] += a * line[v];
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) Store(y + r * out + v * kLanes, sums[r][v]);
  }
}

template <int kVectors>
THAW_INLINE void AddRows(int64_t rows, int64_t depth, const float* x, int64_t in, const float* w,
                         int64_t ahead, float* y, int64_t out) {
  for (; rows >= 4; rows -= 4, x += 4 * in, y += 4 * out) {
    AddTile<4, kVectors>(depth, x, in, w, ahead, y, out);
  }
  switch (rows) {
    case 3:
      return AddTile<3, kVectors>(depth, x, in, w, ahead, y, out);
    case 2:
      return AddTile<2, kVectors>(depth, x, in, w, ahead, y, out);
    case 1:
      return AddTile<1, kVectors>(depth, x, in, w, ahead, y, out);
    default:
      return;
  }
}

void SkinnyMatmulInOut(int64_t rows, int64_t in, int64_t out, const float* x, const float* weight,
                       const float* bias, float* y) {
  // A thread's columns side by side: long runs of every row of w.
  const int64_t parts = omp_get_max_threads();
  const int64_t width = RoundUp((out + parts - 1) / parts, 4 * kLanes);
  ParallelFor((out + width - 1) / width, [=](int64_t part) {
    const int64_t first = part * width, end = Smaller(first + width, out);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = first; c < end; ++c) y[r * out + c] = bias == nullptr ? 0 : bias[c];
    }
    for (int64_t k = 0; k < in; k += kDepthBlock) {
      const int64_t depth = Smaller(kDepthBlock, in - k);
      const int64_t ahead = k + 2 * kDepthBlock <= in ? kDepthBlock * out : 0;
      const float* w = weight + k * out;
      int64_t c = first;
      for (; c + 4 * kLanes <= end; c += 4 * kLanes) {
        AddRows<4>(rows, depth, x + k, in, w + c, ahead, y + c, out);
      }
      for (; c + kLanes <= end; c += kLanes) {
        AddRows<1>(rows, depth, x + k, in, w + c, ahead, y + c, out);
      }
      for (; c < end; ++c) {
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t d = 0; d < depth; ++d) y[r * out + c] += x[r * in + k + d] * w[d * out + c];
        }
      }
    }
  });
}

void SkinnyMatmul(WeightLayout layout, int64_t rows, int64_t in, int64_t out, const float* x,
                  const float* weight, const float* bias, float* y) {
  if (layout == WeightLayout::kOutIn) return SkinnyMatmulOutIn(rows, in, out, x, weight, bias, y);
  SkinnyMatmulInOut(rows, in, out, x, weight, bias, y);
}

}  // namespace
}  // namespace thaw
