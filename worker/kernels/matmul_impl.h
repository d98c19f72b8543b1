// See simd.h for how this is included.
#pragma once

#include "worker/kernels/simd.h"

namespace thaw {
namespace {

// Registers: kTileRows x kTileVectors sums, kTileVectors of b and one of a.
constexpr int kTileRows = 6;
constexpr int kTileVectors = kLanes == 16 ? 4 : 2;

// Element (i, k) of a is a[i * row + k * column].
struct StridedMatrix {
  const float* data;
  int64_t row;
  int64_t column;
};

template <int kRows, int kVectors, typename B>
THAW_INLINE void MatmulTile(int64_t depth, StridedMatrix a, const B* b, int64_t b_stride, float* c,
                            int64_t c_stride, bool accumulate) {
  Floats sums[kRows][kVectors];
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sums[i][v] = accumulate ? Load(c + i * c_stride + v * kLanes) : Floats{};
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    Floats line[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) line[v] = Load(b + k * b_stride + v * kLanes);
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const Floats x = All(a.data[i * a.row + k * a.column]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[i][v] += x * line[v];
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) Store(c + i * c_stride + v * kLanes, sums[i][v]);
  }
}

template <int kVectors, typename B>
void MatmulColumns(int64_t rows, int64_t depth, StridedMatrix a, const B* b, int64_t b_stride,
                   float* c, int64_t c_stride, bool accumulate) {
  for (; rows >= kTileRows; rows -= kTileRows) {
    MatmulTile<kTileRows, kVectors>(depth, a, b, b_stride, c, c_stride, accumulate);
    a.data += kTileRows * a.row;
    c += kTileRows * c_stride;
  }
  switch (rows) {
    case 5:
      return MatmulTile<5, kVectors>(depth, a, b, b_stride, c, c_stride, accumulate);
    case 4:
      return MatmulTile<4, kVectors>(depth, a, b, b_stride, c, c_stride, accumulate);
    case 3:
      return MatmulTile<3, kVectors>(depth, a, b, b_stride, c, c_stride, accumulate);
    case 2:
      return MatmulTile<2, kVectors>(depth, a, b, b_stride, c, c_stride, accumulate);
    case 1:
      return MatmulTile<1, kVectors>(depth, a, b, b_stride, c, c_stride, accumulate);
    default:
      return;
  }
}

// c (+)= a b for a small b that stays in the cache: rows x depth by depth x columns. `columns` is a
// multiple of kLanes.
template <typename B>
void Matmul(int64_t rows, int64_t columns, int64_t depth, StridedMatrix a, const B* b,
            int64_t b_stride, float* c, int64_t c_stride, bool accumulate) {
  int64_t first = 0;
  for (; first + kTileVectors * kLanes <= columns; first += kTileVectors * kLanes) {
    MatmulColumns<kTileVectors>(rows, depth, a, b + first, b_stride, c + first, c_stride,
                                accumulate);
  }
  switch ((columns - first) / kLanes) {
    case 3:
      return MatmulColumns<3>(rows, depth, a, b + first, b_stride, c + first, c_stride, accumulate);
    case 2:
      return MatmulColumns<2>(rows, depth, a, b + first, b_stride, c + first, c_stride, accumulate);
    case 1:
      return MatmulColumns<1>(rows, depth, a, b + first, b_stride, c + first, c_stride, accumulate);
    default:
      return;
  }
}

}  // namespace
}  // namespace thaw
