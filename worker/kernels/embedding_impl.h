// See simd.h for how this is included.
#pragma once

#include "worker/kernels/kernels.h"
#include "worker/kernels/parallel_impl.h"

namespace thaw {
namespace {

void EmbeddingForward(int64_t rows, int64_t columns, const int64_t* ids, const int64_t* positions,
                      const int64_t* types, const float* word, const float* position,
                      const float* type, float* y) {
  ParallelFor(rows, [=](int64_t r) {
    float* to = y + r * columns;
    const size_t bytes = static_cast<size_t>(columns) * sizeof(float);
    std::memcpy(to, word + ids[r] * columns, bytes);
    if (type != nullptr) {
      const float* from = type + (types == nullptr ? 0 : types[r] * columns);
      for (int64_t i = 0; i < columns; ++i) to[i] += from[i];
    }
    if (position != nullptr) {
      const float* from = position + positions[r] * columns;
      for (int64_t i = 0; i < columns; ++i) to[i] += from[i];
    }
  });
}

// Each thread owns whole columns and walks all rows in order, so no two threads meet in a row of
// the table and the sums do not depend on them.
void ScatterAdd(int64_t rows, int64_t columns, const int64_t* ids, const float* d, float* table) {
  const int64_t width = 64;
  const int64_t slices = (columns + width - 1) / width;
  ParallelFor(slices, [=](int64_t slice) {
    const int64_t first = slice * width, end = Smaller(first + width, columns);
    for (int64_t r = 0; r < rows; ++r) {
      float* to = table + (ids == nullptr ? 0 : ids[r] * columns);
      for (int64_t c = first; c < end; ++c) to[c] += d[r * columns + c];
    }
  });
}

}  // namespace
}  // namespace thaw
