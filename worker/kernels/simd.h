// Vectors of kLanes floats through GCC's vector extensions: one source for all instruction sets.
// Included only by the files that define THAW_LANES and are compiled for that set. Everything is
// local to the including file, so that no function compiled for one set is linked into another.
#pragma once

#include <cassert>
#include <cstdint>
#include <cstring>
#include <type_traits>
#if THAW_LANES == 4
#include <emmintrin.h>
#else
#include <immintrin.h>
#endif

#include "worker/kernels/kernels.h"

namespace thaw {
namespace {

#define THAW_INLINE static inline __attribute__((always_inline))

constexpr int64_t kLanes = THAW_LANES;

typedef float Floats __attribute__((vector_size(4 * THAW_LANES), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * THAW_LANES), may_alias));
typedef uint32_t Words __attribute__((vector_size(4 * THAW_LANES), may_alias));
typedef uint16_t Halves __attribute__((vector_size(2 * THAW_LANES), may_alias, aligned(2)));
typedef float UnalignedFloats __attribute__((vector_size(4 * THAW_LANES), may_alias, aligned(4)));

THAW_INLINE int64_t RoundUp(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}
THAW_INLINE int64_t Smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Minus: x + 0 would have to be computed, as it is not x for -0.
THAW_INLINE Floats All(float x) { return x - Floats{}; }
THAW_INLINE Floats Load(const float* p) { return *reinterpret_cast<const UnalignedFloats*>(p); }
THAW_INLINE void Store(float* p, Floats x) { *reinterpret_cast<UnalignedFloats*>(p) = x; }

THAW_INLINE Floats Load(const Bf16* p) {
  const Halves halves = *reinterpret_cast<const Halves*>(p);
  return reinterpret_cast<Floats>(__builtin_convertvector(halves, Words) << 16);
}
// To nearest even; NaN stays NaN.
THAW_INLINE Halves Rounded(Floats x) {
#ifdef __AVX512BF16__
  return reinterpret_cast<Halves>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(x)));
#else
  const Words bits = reinterpret_cast<Words>(x);
  const Words nearest = bits + 0x7fffu + ((bits >> 16) & 1u), quiet = bits | 0x400000u;
  return __builtin_convertvector((x == x ? nearest : quiet) >> 16, Halves);
#endif
}
THAW_INLINE void Store(Bf16* p, Floats x) { *reinterpret_cast<Halves*>(p) = Rounded(x); }

// x as it is read again after it has been stored in elements of type T.
template <typename T>
THAW_INLINE Floats AsStored(Floats x) {
  if constexpr (std::is_same_v<T, float>) return x;
  return reinterpret_cast<Floats>(__builtin_convertvector(Rounded(x), Words) << 16);
}

// x, rounded to fp32 as it stands here: without it a product might be added up unrounded, as part
// of one instruction.
THAW_INLINE Floats Kept(Floats x) {
  asm("" : "+v"(x));
  return x;
}

// The first n < kLanes elements; the others are 0 or stay unwritten.
template <typename T>
THAW_INLINE Floats LoadPart(const T* p, int64_t n) {
  T part[kLanes] = {};
  std::memcpy(part, p, static_cast<size_t>(n) * sizeof(T));
  return Load(part);
}
template <typename T>
THAW_INLINE void StorePart(T* p, Floats x, int64_t n) {
  T part[kLanes];
  Store(part, x);
  std::memcpy(p, part, static_cast<size_t>(n) * sizeof(T));
}

THAW_INLINE float ValueOf(float x) { return x; }
THAW_INLINE float ValueOf(Bf16 x) {
  const uint32_t bits = uint32_t{x.bits} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// body(T()), T being the type of the elements.
template <typename Body>
THAW_INLINE auto WithType(RowType type, Body body) {
  return type == RowType::kBf16 ? body(Bf16()) : body(float());
}
template <typename T>
THAW_INLINE T* As(Elements rows) {
  assert(rows.data == nullptr || rows.type == Elements(static_cast<T*>(nullptr)).type);
  return static_cast<T*>(rows.data);
}
template <typename T>
THAW_INLINE const T* As(ConstElements rows) {
  assert(rows.data == nullptr || rows.type == ConstElements(static_cast<const T*>(nullptr)).type);
  return static_cast<const T*>(rows.data);
}

// body(first, n) over columns [first, end), kLanes at a time; n < kLanes at the end.
template <typename Body>
THAW_INLINE void OverColumns(int64_t first, int64_t end, Body body) {
  for (; first + kLanes <= end; first += kLanes) body(first, kLanes);
  if (first < end) body(first, end - first);
}
template <typename T>
THAW_INLINE Floats LoadUpTo(const T* p, int64_t n) {
  return n == kLanes ? Load(p) : LoadPart(p, n);
}
template <typename T>
THAW_INLINE void StoreUpTo(T* p, Floats x, int64_t n) {
  if (n == kLanes) {
    Store(p, x);
  } else {
    StorePart(p, x, n);
  }
}

// b where either is NaN.
THAW_INLINE Floats Larger(Floats a, Floats b) { return a > b ? a : b; }
THAW_INLINE Floats Lesser(Floats a, Floats b) { return a < b ? a : b; }

// Lane i of `x` moved to lane i ^ distance.
template <int distance>
THAW_INLINE Floats SwapLanes(Floats x) {
  Ints from;
  for (int i = 0; i < kLanes; ++i) from[i] = i ^ distance;
  return __builtin_shuffle(x, from);
}
THAW_INLINE float SumOf(Floats x) {
  if constexpr (kLanes >= 16) x += SwapLanes<8>(x);
  if constexpr (kLanes >= 8) x += SwapLanes<4>(x);
  x += SwapLanes<2>(x);
  x += SwapLanes<1>(x);
  return x[0];
}
// The blocks of `width` lanes of x and then those of y, each halved: its lower half plus its upper.
template <int width>
THAW_INLINE Floats HalvedBlocks(Floats x, Floats y) {
  constexpr int kHalf = width / 2;
  Ints lower;
  for (int i = 0; i < kLanes; ++i) lower[i] = i / kHalf * width + i % kHalf;
  return __builtin_shuffle(x, y, lower) + __builtin_shuffle(x, y, lower + kHalf);
}
// What SumOf gives for each of `count` vectors, a power of two up to kLanes; added in its order.
template <int count, int width = THAW_LANES>
THAW_INLINE void SumsOf(const Floats* x, float* sums) {
  if constexpr (count > 1) {
    Floats halved[count / 2];
#pragma GCC unroll 8
    for (int i = 0; i < count / 2; ++i) halved[i] = HalvedBlocks<width>(x[2 * i], x[2 * i + 1]);
    SumsOf<count / 2, width / 2>(halved, sums);
  } else {
    Floats block = *x;
    if constexpr (width >= 16) block += SwapLanes<8>(block);
    if constexpr (width >= 8) block += SwapLanes<4>(block);
    if constexpr (width >= 4) block += SwapLanes<2>(block);
    if constexpr (width >= 2) block += SwapLanes<1>(block);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes / width; ++i) sums[i] = block[i * width];
  }
}
THAW_INLINE float LargestOf(Floats x) {
  if constexpr (kLanes >= 16) x = Larger(x, SwapLanes<8>(x));
  if constexpr (kLanes >= 8) x = Larger(x, SwapLanes<4>(x));
  x = Larger(x, SwapLanes<2>(x));
  x = Larger(x, SwapLanes<1>(x));
  return x[0];
}

// One round of a butterfly: swaps the off-diagonal squares of size `half` in every pair of rows
// that are `half` apart.
template <int half>
THAW_INLINE void TransposeRound(Floats (&rows)[kLanes]) {
  Ints low, high;
  for (int i = 0; i < kLanes; ++i) {
    low[i] = (i & half) == 0 ? i : static_cast<int>(kLanes) + i - half;
    high[i] = (i & half) == 0 ? i + half : static_cast<int>(kLanes) + i;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; ++r) {
    if ((r & half) != 0) continue;
    const Floats a = rows[r], b = rows[r + half];
    rows[r] = __builtin_shuffle(a, b, low);
    rows[r + half] = __builtin_shuffle(a, b, high);
  }
}
THAW_INLINE void Transpose(Floats (&rows)[kLanes]) {
  TransposeRound<1>(rows);
  TransposeRound<2>(rows);
  if constexpr (kLanes >= 8) TransposeRound<4>(rows);
  if constexpr (kLanes >= 16) TransposeRound<8>(rows);
}

// Lane i is the sum of rows[i]: the butterfly, adding up what it has brought together.
template <int half>
THAW_INLINE void SumRound(Floats (&rows)[kLanes]) {
  Ints low, high;
  for (int i = 0; i < kLanes; ++i) {
    low[i] = (i & half) == 0 ? i : static_cast<int>(kLanes) + i - half;
    high[i] = (i & half) == 0 ? i + half : static_cast<int>(kLanes) + i;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; r += 2 * half) {
    const Floats a = rows[r], b = rows[r + half];
    rows[r] = __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
  }
}
THAW_INLINE Floats SumsOf(Floats (&rows)[kLanes]) {
  SumRound<1>(rows);
  SumRound<2>(rows);
  if constexpr (kLanes >= 8) SumRound<4>(rows);
  if constexpr (kLanes >= 16) SumRound<8>(rows);
  return rows[0];
}

// e^x to about 1 ulp within [-87.3, 88], the ends outside, NaN of NaN: 2^n times a polynomial on
// [-ln 2 / 2, ln 2 / 2].
THAW_INLINE Floats Exp(Floats x) {
  const Floats shift = All(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  x = Lesser(All(88.0f), Larger(All(-87.33f), x));
  const Floats shifted = x * 1.44269504f + shift;
  const Floats n = shifted - shift;
  const Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Floats p = All(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Ints exponent = (reinterpret_cast<Ints>(shifted) - 0x4b400000 + 127) << 23;
  return p * reinterpret_cast<Floats>(exponent);
}

}  // namespace
}  // namespace thaw
