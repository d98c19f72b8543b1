// See simd.h for how this is included.
#pragma once

#include "worker/kernels/kernels.h"
#include "worker/kernels/parallel_impl.h"

namespace thaw {
namespace {

template <typename T>
void RotateRows(const RotaryShape& shape, const T* x, T* y) {
  ParallelFor(shape.rows, [=, &shape](int64_t r) {
    const int64_t half = shape.half, rest = shape.head_dim - 2 * half;
    const float* cosine = shape.cosines + shape.positions[r] * half;
    const float* sine = shape.sines + shape.positions[r] * half;
    const float sign = shape.backwards ? -1 : 1;
    for (int64_t head = 0; head < shape.heads; ++head) {
      const T* from = x + r * shape.x.row + head * shape.x.head;
      T* to = y + r * shape.y.row + head * shape.y.head;
      OverColumns(0, half, [&](int64_t c, int64_t n) {
        const Floats a = LoadUpTo(from + c, n), b = LoadUpTo(from + half + c, n);
        const Floats cos = LoadUpTo(cosine + c, n), sin = LoadUpTo(sine + c, n) * sign;
        StoreUpTo(to + c, a * cos - b * sin, n);
        StoreUpTo(to + half + c, b * cos + a * sin, n);
      });
      if (rest > 0 && from != to) {
        std::memcpy(to + 2 * half, from + 2 * half, static_cast<size_t>(rest) * sizeof(T));
      }
    }
  });
}

void Rotate(const RotaryShape& shape, ConstElements x, Elements y) {
  WithType(x.type, [=, &shape](auto type) {
    RotateRows(shape, As<decltype(type)>(x), As<decltype(type)>(y));
  });
}

}  // namespace
}  // namespace thaw
