// See simd.h for how this is included.
#pragma once

#include "worker/kernels/kernels.h"
#include "worker/kernels/parallel_impl.h"

namespace thaw {
namespace {

void Rotate(int64_t rows, int64_t heads, HeadStrides strides, int64_t half, const float* cosines,
            const float* sines, const int64_t* positions, bool backwards, float* x) {
  const float sign = backwards ? -1 : 1;
  ParallelFor(rows, [=](int64_t r) {
    const float* cosine = cosines + positions[r] * half;
    const float* sine = sines + positions[r] * half;
    for (int64_t head = 0; head < heads; ++head) {
      float* low = x + r * strides.row + head * strides.head;
      float* high = low + half;
      OverColumns(0, half, [&](int64_t c, int64_t n) {
        const Floats a = LoadUpTo(low + c, n), b = LoadUpTo(high + c, n);
        const Floats cos = LoadUpTo(cosine + c, n), sin = LoadUpTo(sine + c, n) * sign;
        StoreUpTo(low + c, a * cos - b * sin, n);
        StoreUpTo(high + c, b * cos + a * sin, n);
      });
    }
  });
}

}  // namespace
}  // namespace thaw
