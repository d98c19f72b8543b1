// Products of matrices in bf16 by AMX tiles: weights' gradients, and few rows times a weight. Every
// sum is taken in one order, in fp32, whatever the other rows and the threads are. See simd.h for
// how this is included.
#pragma once

#include <omp.h>

#include "worker/kernels/amx_tiles_impl.h"
#include "worker/kernels/parallel_impl.h"
#include "worker/kernels/scratch.h"
#include "worker/kernels/skinny_matmul_impl.h"

namespace thaw {
namespace {

// Of a weight's gradient: outputs by inputs that stay in the second cache.
constexpr int64_t kGradientRows = 384;
constexpr int64_t kGradientColumns = 768;
constexpr int64_t kGradientSteps = 8;

// sum (+)= c over the part of a tile that lies within the matrix.
THAW_INLINE void AddTilePart(int64_t rows, int64_t columns, const float* c, bool accumulate,
                             float* sum, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    Floats all = Load(c + r * 16);
    if (accumulate) all += LoadUpTo(sum + r * stride, columns);
    StoreUpTo(sum + r * stride, all, columns);
  }
}

void MatmulTransposedByTiles(int64_t rows, int64_t out, int64_t in, const Bf16* d, const Bf16* x,
                             bool accumulate, float* sum) {
  const int64_t threads = omp_get_max_threads();
  const int64_t across = TilesOf(in, kGradientColumns), width = RoundUp(TilesOf(in, across), 32);
  const int64_t down = RoundUp(TilesOf(out, kGradientRows) * across, threads) / across;
  const int64_t height = RoundUp(TilesOf(out, down < 1 ? 1 : down), 32);
  const int64_t columns_of_tasks = TilesOf(in, width);
  ParallelForUneven(TilesOf(out, height) * columns_of_tasks, [=](int64_t task) {
    const TileRegisters registers;
    const int64_t o = task / columns_of_tasks * height, i = task % columns_of_tasks * width;
    const int64_t outs = Smaller(height, out - o), ins = Smaller(width, in - i);
    const int64_t most = Smaller(kGradientSteps, TilesOf(rows, 32));
    const int64_t left_size = RoundUp(outs, 32) * most * 32,
                  right_size = RoundUp(ins, 32) * most * 32;
    float* const edge = ThreadScratch(static_cast<size_t>(kSumTile + (left_size + right_size) / 2));
    Bf16* const left = reinterpret_cast<Bf16*>(edge + kSumTile);
    Bf16* const right = left + left_size;
    const int64_t whole_outs = outs / 16, whole_ins = ins / 16;
    for (int64_t r = 0; r < rows; r += kGradientSteps * 32) {
      const int64_t n = Smaller(kGradientSteps * 32, rows - r), steps = TilesOf(n, 32);
      const bool adds = accumulate || r > 0;
      const LeftTiles a = {left, steps * kTile};
      const RightStrips b = {right, steps * kTile};
      PackLeftTransposed(n, outs, d + r * out + o, out, left);
      PackRight(n, ins, x + r * in + i, in, right);
      float* const to = sum + o * in + i;
      TileMatmul(whole_outs, whole_ins, steps, a, b, {to, 16, 16 * in, in}, adds);
      const auto add_part = [=](int64_t tile, int64_t strip) {
        TileMatmul(1, 1, steps, {left + tile * a.row, a.row}, {right + strip * b.strip, b.strip},
                   SumStrips(edge, kSumTile), false);
        AddTilePart(Smaller(16, outs - tile * 16), Smaller(16, ins - strip * 16), edge, adds,
                    to + tile * 16 * in + strip * 16, in);
      };
      for (int64_t tile = 0; tile < TilesOf(outs, 16); ++tile) {
        for (int64_t strip = tile < whole_outs ? whole_ins : 0; strip < TilesOf(ins, 16); ++strip) {
          add_part(tile, strip);
        }
      }
    }
  });
}

// ---- Few rows

// Up to 32 outputs by 16 or 32 rows, [outputs][rows] in two tiles a strip: the weight's rows are
// left tiles as they lie. `next` is asked for meanwhile.
template <bool kTwoStrips>
THAW_INLINE void OutputTiles(int64_t outs, int64_t in, const Bf16* weight, const Bf16* next,
                             const Bf16* x, int64_t x_strip, float* sums) {
  alignas(64) Bf16 edge[2 * kTile];
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t c = 0; c < in; c += 32, x += kTile) {
    if (outs == 32 && c + 32 <= in) {
      _tile_loadd(4, weight + c, in * 2);
      _tile_loadd(5, weight + 16 * in + c, in * 2);
      for (int64_t r = 0; r < 32; ++r) __builtin_prefetch(next + r * in + c, 0, 2);
    } else {
      PackLeft(outs, Smaller(32, in - c), weight + c, in, edge);
      asm volatile("" ::: "memory");
      _tile_loadd(4, edge, 64);
      _tile_loadd(5, edge + kTile, 64);
    }
    _tile_loadd(6, x, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kTwoStrips) {
      _tile_loadd(7, x + x_strip, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, 64);
  _tile_stored(2, sums + kSumTile, 64);
  if constexpr (kTwoStrips) {
    _tile_stored(1, sums + 2 * kSumTile, 64);
    _tile_stored(3, sums + 3 * kSumTile, 64);
  }
}

// y[r][o] = sums[o][r] + bias[o] for up to 16 rows and 16 outputs.
THAW_INLINE void StoreOutputs(int64_t rows, int64_t outs, const float* sums, const float* bias,
                              Bf16* y, int64_t stride) {
  Floats square[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) square[i] = Load(sums + i * 16);
  Transpose(square);
  const Floats biases = bias == nullptr ? Floats{} : LoadUpTo(bias, outs);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if (i < rows) StoreUpTo(y + i * stride, square[i] + biases, outs);
  }
}

// Rows in one or two strips.
void FewRowsOutIn(int64_t rows, int64_t in, int64_t out, const Bf16* x, const Bf16* weight,
                  const float* bias, Bf16* y) {
  const int64_t strips = TilesOf(rows, 16), strip = TilesOf(in, 32) * kTile;
  Bf16* const packed = reinterpret_cast<Bf16*>(SharedScratch(static_cast<size_t>(strip)));
  PackRightTransposed(rows, in, strips, x, in, packed);
  ParallelFor(TilesOf(out, 32), [=](int64_t block) {
    const TileRegisters registers;
    const int64_t o = block * 32, outs = Smaller(32, out - o);
    const Bf16* const w = weight + o * in;
    const Bf16* const next = o + 64 <= out ? w + 32 * in : weight;
    alignas(64) float sums[4 * kSumTile];
    asm volatile("" ::: "memory");
    if (strips == 2) {
      OutputTiles<true>(outs, in, w, next, packed, strip, sums);
    } else {
      OutputTiles<false>(outs, in, w, next, packed, strip, sums);
    }
    asm volatile("" ::: "memory");
    for (int64_t s = 0; s < strips; ++s) {
      for (int64_t first = 0; first < outs; first += 16) {
        StoreOutputs(Smaller(16, rows - s * 16), Smaller(16, outs - first),
                     sums + 2 * s * kSumTile + first * 16,
                     bias == nullptr ? nullptr : bias + o + first, y + s * 16 * out + o + first,
                     out);
      }
    }
  });
}

void FewRowsInOut(int64_t rows, int64_t in, int64_t out, const Bf16* x, const Bf16* weight,
                  const float* bias, Bf16* y) {
  constexpr int64_t kDepth = 64;  // rows of the weight that are packed at a time
  const int64_t strip = TilesOf(in, 32) * kTile, tiles = TilesOf(rows, 16);
  Bf16* const packed = reinterpret_cast<Bf16*>(SharedScratch(static_cast<size_t>(strip)));
  PackLeft(rows, in, x, in, packed);
  // A thread's columns side by side: long runs of every row of the weight.
  const int64_t parts = omp_get_max_threads(), width = RoundUp(TilesOf(out, parts), 32);
  ParallelFor(TilesOf(out, width), [=](int64_t part) {
    const TileRegisters registers;
    const int64_t o = part * width, outs = Smaller(width, out - o);
    const int64_t strips = TilesOf(outs, 16), sums_strip = tiles * kSumTile;
    float* const sums =
        ThreadScratch(static_cast<size_t>(strips * sums_strip + RoundUp(outs, 32) * kDepth / 2));
    Bf16* const right = reinterpret_cast<Bf16*>(sums + strips * sums_strip);
    for (int64_t k = 0; k < in; k += kDepth) {
      const int64_t depth = Smaller(kDepth, in - k), steps = TilesOf(depth, 32);
      PackRight(depth, outs, weight + k * out + o, out, right);
      const int64_t next = Smaller(kDepth, in - k - depth);
      for (int64_t s = 0; s < strips; s += 2) {
        TileMatmul(tiles, Smaller(2, strips - s), steps, {packed + k / 32 * kTile, strip},
                   {right + s * steps * kTile, steps * kTile},
                   SumStrips(sums + s * sums_strip, sums_strip), k > 0);
        for (int64_t r = 0; r < next; ++r) {
          __builtin_prefetch(weight + (k + depth + r) * out + o + s * 16, 0, 2);
        }
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      OverColumns(0, outs, [&](int64_t c, int64_t n) {
        Floats sum = Load(sums + c / 16 * sums_strip + r * 16);
        if (bias != nullptr) sum += LoadUpTo(bias + o + c, n);
        StoreUpTo(y + r * out + o + c, sum, n);
      });
    }
  });
}

void SkinnyMatmulByTiles(WeightLayout layout, int64_t rows, int64_t in, int64_t out,
                         ConstElements x, ConstElements weight, const float* bias, Elements y) {
  if (x.type == RowType::kFloat) {
    return SkinnyMatmul(layout, rows, in, out, x, weight, bias, y);
  }
  const auto few_rows = layout == WeightLayout::kOutIn ? FewRowsOutIn : FewRowsInOut;
  for (int64_t r = 0; r < rows; r += 32) {
    few_rows(Smaller(32, rows - r), in, out, As<Bf16>(x) + r * in, As<Bf16>(weight), bias,
             As<Bf16>(y) + r * out);
  }
}

}  // namespace
}  // namespace thaw
