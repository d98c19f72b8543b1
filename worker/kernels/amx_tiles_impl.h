// Products of small bf16 matrices by AMX tiles, with fp32 results. Included only by the file that
// is compiled for AMX; see simd.h.
//
// Everything but left matrices that are read as they stand lies in tiles of 1 KiB, so that a
// product reads and writes memory in one go:
//   left  [rows, depth]: tiles of 16 rows x 32 numbers, one row of tiles after another;
//   right [depth, columns]: strips of 16 columns, each a tile of 16 pairs x 16 columns per 32 of
//         depth, a pair being the numbers of two neighbouring rows in one column;
//   sums  [rows, columns]: strips of 16 columns, each a tile of 16 x 16 floats per 16 rows.
// What a matrix lacks to whole tiles is zero. Matrices in memory are packed in one of four ways: as
// they stand or transposed, left or right.
#pragma once

#include "worker/kernels/kernels.h"
#include "worker/kernels/simd.h"

namespace thaw {
namespace {

constexpr int64_t kTile = 512;  // elements of a left or right tile
constexpr int64_t kSumTile = 256;

THAW_INLINE int64_t TilesOf(int64_t n, int64_t size) { return (n + size - 1) / size; }

// While one lives, the thread's tile registers are whole tiles.
class TileRegisters {
 public:
  TileRegisters() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    // GCC's intrinsic says of 8 of these bytes alone that it reads them.
    asm volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
  }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

// Packed as above, or rows of a matrix as they lie in memory; all in elements.
struct LeftTiles {
  const Bf16* data;
  int64_t row;           // from a row of tiles to the next
  int64_t step = kTile;  // from a tile to the next in its row
  int64_t pitch = 32;    // from a row to the next within a tile
};
struct RightStrips {
  const Bf16* data;
  int64_t strip;  // in elements
};
// Sums, in strips as above or as a matrix in memory: how far it is, in floats, from a strip to the
// next, from a tile to the one below and from a row to the next.
struct SumTiles {
  float* data;
  int64_t strip, tile, row;
};
THAW_INLINE SumTiles SumStrips(float* data, int64_t strip) { return {data, strip, kSumTile, 16}; }

// One or two rows of tiles by one or two strips.
template <bool kTwoRows, bool kTwoStrips>
THAW_INLINE void TileBlock(int64_t steps, LeftTiles left, const Bf16* b, int64_t b_strip,
                           SumTiles c, bool accumulate) {
  const Bf16* a = left.data;
  const int64_t a_bytes = left.pitch * static_cast<int64_t>(sizeof(Bf16));
  const int64_t bytes = c.row * static_cast<int64_t>(sizeof(float));
  float *const right = c.data + c.strip, *const below = c.data + c.tile;
  float* const last = right + c.tile;
  if (accumulate) {
    _tile_loadd(0, c.data, bytes);
    if constexpr (kTwoStrips) _tile_loadd(1, right, bytes);
    if constexpr (kTwoRows) _tile_loadd(2, below, bytes);
    if constexpr (kTwoRows && kTwoStrips) _tile_loadd(3, last, bytes);
  } else {
    _tile_zero(0);
    if constexpr (kTwoStrips) _tile_zero(1);
    if constexpr (kTwoRows) _tile_zero(2);
    if constexpr (kTwoRows && kTwoStrips) _tile_zero(3);
  }
  for (int64_t step = 0; step < steps; ++step, a += left.step, b += kTile) {
    _tile_loadd(4, a, a_bytes);
    _tile_loadd(6, b, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kTwoStrips) {
      _tile_loadd(7, b + b_strip, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kTwoRows) {
      _tile_loadd(5, a + left.row, a_bytes);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kTwoStrips) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c.data, bytes);
  if constexpr (kTwoStrips) _tile_stored(1, right, bytes);
  if constexpr (kTwoRows) _tile_stored(2, below, bytes);
  if constexpr (kTwoRows && kTwoStrips) _tile_stored(3, last, bytes);
}

// c (+)= a b; the sizes are in tiles. Needs TileRegisters.
__attribute__((noinline)) void TileMatmul(int64_t rows, int64_t strips, int64_t steps, LeftTiles a,
                                          RightStrips b, SumTiles c, bool accumulate) {
  // GCC's intrinsics do not say that they read memory.
  asm volatile("" ::: "memory");
  for (int64_t s = 0; s < strips; s += 2) {
    const Bf16* strip = b.data + s * b.strip;
    const bool two_strips = s + 1 < strips;
    for (int64_t r = 0; r < rows; r += 2) {
      const LeftTiles left = {a.data + r * a.row, a.row, a.step, a.pitch};
      const SumTiles to = {c.data + s * c.strip + r * c.tile, c.strip, c.tile, c.row};
      if (r + 1 < rows) {
        if (two_strips) {
          TileBlock<true, true>(steps, left, strip, b.strip, to, accumulate);
        } else {
          TileBlock<true, false>(steps, left, strip, b.strip, to, accumulate);
        }
      } else if (two_strips) {
        TileBlock<false, true>(steps, left, strip, b.strip, to, accumulate);
      } else {
        TileBlock<false, false>(steps, left, strip, b.strip, to, accumulate);
      }
    }
  }
  asm volatile("" ::: "memory");
}

// The tiles' multiplier falls asleep when it has been idle for some 250 ns, and then takes 400 to
// wake. Long work on vectors between two products calls this some five times a microsecond: one
// product of what happens to be in the registers. (Changing between vectors and tiles costs 25 ns;
// they do not run side by side.)
THAW_INLINE void KeepTilesAwake() { _tile_dpbf16ps(0, 4, 6); }

// ---- Packing

// 32 numbers from column c of a row with `columns` of them on; zeros where there are none.
THAW_INLINE __m512i LoadTileRow(const Bf16* row, int64_t c, int64_t columns) {
  if (c + 32 <= columns) return _mm512_loadu_si512(row + c);
  return _mm512_maskz_loadu_epi16((1u << (columns - c)) - 1, row + c);
}
THAW_INLINE void StoreTileRow(Bf16* to, __m512i x) { _mm512_store_si512(to, x); }

// The left tiles of a matrix in memory.
void PackLeft(int64_t rows, int64_t columns, const Bf16* from, int64_t stride, Bf16* to) {
  const int64_t steps = TilesOf(columns, 32), all = RoundUp(rows, 32);
  for (int64_t r = 0; r < all; ++r) {
    for (int64_t step = 0; step < steps; ++step) {
      StoreTileRow(to + (r / 16 * steps + step) * kTile + r % 16 * 32,
                   r < rows ? LoadTileRow(from + r * stride, step * 32, columns) : __m512i());
    }
  }
}

// The 16 rows of 16 pairs each become columns: 16 of the left tile's rows, or a right tile.
THAW_INLINE void StoreTransposed(__m512i (&pairs)[16], Bf16* to) {
  Transpose(reinterpret_cast<Floats(&)[16]>(pairs));
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) StoreTileRow(to + i * 32, pairs[i]);
}

// Rows `r` and `r` + 1 of the matrix, number by number: the first 16 pairs and the other 16.
struct PairedRows {
  __m512i low, high;
};
THAW_INLINE PairedRows PairRows(__m512i first, __m512i second) {
  alignas(64) static constexpr uint16_t kLow[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                                    37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                                    11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(kLow), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  return {_mm512_permutex2var_epi16(first, low, second),
          _mm512_permutex2var_epi16(first, high, second)};
}

// The left tiles of the transpose: its rows are the columns, an even number of tiles.
void PackLeftTransposed(int64_t rows, int64_t columns, const Bf16* from, int64_t stride, Bf16* to) {
  const int64_t steps = TilesOf(rows, 32);
  for (int64_t step = 0; step < steps; ++step) {
    for (int64_t c = 0; c < columns; c += 32) {
      __m512i low[16], high[16];
      for (int64_t p = 0; p < 16; ++p) {
        const int64_t r = step * 32 + 2 * p;
        const Bf16* row = from + r * stride;
        const PairedRows paired =
            PairRows(r < rows ? LoadTileRow(row, c, columns) : __m512i(),
                     r + 1 < rows ? LoadTileRow(row + stride, c, columns) : __m512i());
        low[p] = paired.low;
        high[p] = paired.high;
      }
      StoreTransposed(low, to + (c / 16 * steps + step) * kTile);
      StoreTransposed(high, to + ((c / 16 + 1) * steps + step) * kTile);
    }
  }
}

// The right strips of a matrix in memory: an even number of them.
void PackRight(int64_t rows, int64_t columns, const Bf16* from, int64_t stride, Bf16* to) {
  const int64_t steps = TilesOf(rows, 32);
  for (int64_t p = 0; p < steps * 16; ++p) {
    const Bf16* row = from + 2 * p * stride;
    for (int64_t c = 0; c < columns; c += 32) {
      Bf16* strip = to + c / 16 * steps * kTile;
      const PairedRows paired =
          PairRows(2 * p < rows ? LoadTileRow(row, c, columns) : __m512i(),
                   2 * p + 1 < rows ? LoadTileRow(row + stride, c, columns) : __m512i());
      StoreTileRow(strip + p * 32, paired.low);
      StoreTileRow(strip + steps * kTile + p * 32, paired.high);
    }
  }
}

// The right strips of the transpose: its columns are the rows, `strips` of 16.
void PackRightTransposed(int64_t rows, int64_t columns, int64_t strips, const Bf16* from,
                         int64_t stride, Bf16* to) {
  const int64_t steps = TilesOf(columns, 32);
  for (int64_t s = 0; s < strips; ++s) {
    for (int64_t step = 0; step < steps; ++step) {
      __m512i pairs[16];
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t r = s * 16 + i;
        pairs[i] = r < rows ? LoadTileRow(from + r * stride, step * 32, columns) : __m512i();
      }
      StoreTransposed(pairs, to + (s * steps + step) * kTile);
    }
  }
}

// ---- Unpacking

// to[r][c] = factor * sum at (r, c).
void UnpackSums(int64_t rows, int64_t columns, SumTiles sums, float factor, Bf16* to,
                int64_t stride) {
  for (int64_t c = 0; c < columns; c += 16) {
    const float* strip = sums.data + c / 16 * sums.strip;
    const int64_t n = Smaller(16, columns - c);
    for (int64_t r = 0; r < rows; ++r) {
      StoreUpTo(to + r * stride + c, Load(strip + r * 16) * factor, n);
    }
  }
}

// to[c][r] = factors[c] * sum at (r, c), for one strip of which `columns` count.
THAW_INLINE void UnpackTransposedStrip(int64_t rows, int64_t columns, const float* strip,
                                       Floats factors, Bf16* to, int64_t stride) {
  for (int64_t r = 0; r < rows; r += 16) {
    const int64_t n = Smaller(16, rows - r);
    Floats square[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) square[i] = Load(strip + (r + i) * 16) * factors;
    Transpose(square);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      if (i < columns) StoreUpTo(to + i * stride + r, square[i], n);
    }
  }
}

}  // namespace
}  // namespace thaw
