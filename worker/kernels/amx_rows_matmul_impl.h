// Products of many rows in bf16 with a weight by AMX tiles. See simd.h for how this is included.
//
// A task makes some columns of the result. It packs its part of the weight once and takes the rows
// of x as they lie, so many at a time as the second cache holds sums of: 32 of the weight's
// columns, in the first cache, meet all of these rows before the next ones do.
#pragma once

#include <omp.h>

#include "worker/kernels/amx_tiles_impl.h"
#include "worker/kernels/parallel_impl.h"
#include "worker/kernels/scratch.h"

namespace thaw {
namespace {

constexpr int64_t kProductRows = 96;            // that are summed at a time
constexpr int64_t kProductColumns = 256;        // of a task, at most
constexpr int64_t kProductWeights = 512 << 10;  // elements of the weight that a task packs
constexpr int64_t kProductSteps = 24;           // of 32 numbers each, that the first cache holds

// Rows and columns of a task; the columns are a multiple of 32.
struct ProductBlocks {
  int64_t height, width;
};
// As many tasks as keep every thread as busy as the others, where there is enough to do. Columns
// are divided rather than rows, for each task packs its part of the weight.
ProductBlocks ProductBlocksOf(int64_t rows, int64_t in, int64_t out) {
  const int64_t threads = omp_get_max_threads();
  int64_t most = kProductWeights / RoundUp(in, 32) / 32 * 32;
  most = most < 32 ? 32 : Smaller(most, kProductColumns);
  const bool wide = out >= 64 * threads;
  const int64_t across = TilesOf(out, most);
  const int64_t width = RoundUp(TilesOf(out, wide ? RoundUp(across, threads) : across), 32);
  return {wide ? rows : RoundUp(TilesOf(rows, threads), 32), width};
}

// y = sums (+ y) + bias of up to 32 columns: a line of y is written at once.
THAW_INLINE void StoreProduct(int64_t rows, int64_t columns, const float* sums, int64_t strip,
                              const float* bias, bool accumulate, Bf16* y, int64_t stride) {
  const int64_t low = Smaller(16, columns), high = columns - low;
  const Floats low_bias = bias == nullptr ? Floats{} : LoadUpTo(bias, low),
               high_bias = bias == nullptr ? Floats{} : LoadUpTo(bias + low, high);
  const auto store = [=](const float* from, Floats biases, int64_t n, Bf16* to) {
    Floats all = Load(from) + biases;
    if (accumulate) all += LoadUpTo(to, n);
    StoreUpTo(to, all, n);
  };
  for (int64_t r = 0; r < rows; ++r, sums += 16, y += stride) {
    store(sums, low_bias, low, y);
    if (high > 0) store(sums + strip, high_bias, high, y + 16);
  }
}

void MatmulByTiles(const MatmulShape& shape, const Bf16* x, const Bf16* weight, const float* bias,
                   bool accumulate, Bf16* y) {
  const ProductBlocks blocks = ProductBlocksOf(shape.rows, shape.in, shape.out);
  const int64_t across = TilesOf(shape.out, blocks.width);
  ParallelForUneven(TilesOf(shape.rows, blocks.height) * across, [=](int64_t task) {
    const TileRegisters registers;
    const int64_t first = task / across * blocks.height, o = task % across * blocks.width;
    const int64_t end = Smaller(first + blocks.height, shape.rows);
    const int64_t outs = Smaller(blocks.width, shape.out - o), strips = TilesOf(outs, 16);
    const int64_t steps = TilesOf(shape.in, 32), strip = kProductRows * 16;
    const int64_t right_size = RoundUp(outs, 32) * steps * 32;
    const int64_t most_packed = shape.in % 32 == 0 ? 32 : kProductRows;
    float* const sums = ThreadScratch(static_cast<size_t>(
        RoundUp(outs, 32) * kProductRows + right_size / 2 + most_packed * steps * 16));
    Bf16* const right = reinterpret_cast<Bf16*>(sums + RoundUp(outs, 32) * kProductRows);
    Bf16* const packed = right + right_size;
    if (shape.layout == WeightLayout::kOutIn) {
      PackRightTransposed(outs, shape.in, strips, weight + o * shape.weight_row, shape.weight_row,
                          right);
    } else {
      PackRight(shape.in, outs, weight + o, shape.weight_row, right);
    }
    const int64_t some = TilesOf(steps, TilesOf(steps, kProductSteps));
    for (int64_t r = first; r < end; r += kProductRows) {
      const int64_t rows = Smaller(kProductRows, end - r);
      // Rows that are whole tiles as they lie; the others are packed.
      const int64_t whole = shape.in % 32 == 0 ? rows / 16 : 0, rest = rows - whole * 16;
      const Bf16* const from = x + r * shape.x_row;
      if (rest > 0) PackLeft(rest, shape.in, from + whole * 16 * shape.x_row, shape.x_row, packed);
      for (int64_t step = 0; step < steps; step += some) {
        const int64_t n = Smaller(some, steps - step);
        const RightStrips b = {right + step * kTile, steps * kTile};
        if (whole > 0) {
          TileMatmul(whole, strips, n, {from + step * 32, 16 * shape.x_row, 32, shape.x_row}, b,
                     SumStrips(sums, strip), step > 0);
        }
        if (rest > 0) {
          TileMatmul(TilesOf(rest, 16), strips, n, {packed + step * kTile, steps * kTile}, b,
                     SumStrips(sums + whole * kSumTile, strip), step > 0);
        }
      }
      for (int64_t c = 0; c < outs; c += 32) {
        StoreProduct(rows, Smaller(32, outs - c), sums + c / 16 * strip, strip,
                     bias == nullptr ? nullptr : bias + o + c, accumulate,
                     y + r * shape.y_row + o + c, shape.y_row);
      }
    }
  });
}

}  // namespace
}  // namespace thaw
