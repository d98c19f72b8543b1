// See simd.h for how this is included.
#pragma once

#include "worker/kernels/kernels.h"
#include "worker/kernels/parallel_impl.h"

namespace thaw {
namespace {

#if THAW_LANES == 16
// 16 of them from 8 bytes.
THAW_INLINE Floats LookUpCodes(const uint8_t* codes, __m512 table) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
  const __m128i low = _mm_set1_epi8(15);
  const __m128i pairs =
      _mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(bytes, 4), low), _mm_and_si128(bytes, low));
  return reinterpret_cast<Floats>(_mm512_permutexvar_ps(_mm512_cvtepu8_epi32(pairs), table));
}
#elif THAW_LANES == 8
// 8 of them from 4 bytes.
THAW_INLINE Floats LookUpCodes(const uint8_t* codes, __m256 first, __m256 second) {
  int32_t four = 0;
  std::memcpy(&four, codes, sizeof(four));
  const __m128i bytes = _mm_cvtsi32_si128(four), low = _mm_set1_epi8(15);
  const __m256i pairs = _mm256_cvtepu8_epi32(
      _mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(bytes, 4), low), _mm_and_si128(bytes, low)));
  return reinterpret_cast<Floats>(_mm256_blendv_ps(
      _mm256_permutevar8x32_ps(first, pairs), _mm256_permutevar8x32_ps(second, pairs),
      _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 28))));
}
#endif

// One block, `n` numbers of which may be fewer than it has.
template <typename T>
THAW_INLINE void ExpandCodes(const uint8_t* codes, const float* table, float scale, int64_t n,
                             T* y) {
  int64_t i = 0;
#if THAW_LANES == 16
  const __m512 all = _mm512_loadu_ps(table);
  for (; i + 16 <= n; i += 16) Store(y + i, LookUpCodes(codes + i / 2, all) * scale);
#elif THAW_LANES == 8
  const __m256 first = _mm256_loadu_ps(table), second = _mm256_loadu_ps(table + 8);
  for (; i + 8 <= n; i += 8) Store(y + i, LookUpCodes(codes + i / 2, first, second) * scale);
#endif
  for (; i < n; ++i) {
    const uint8_t pair = codes[i / 2];
    StorePart(y + i, All(table[i % 2 == 0 ? pair >> 4 : pair & 15] * scale), 1);
  }
}

void Nf4Expand(int64_t n, int64_t block, const uint8_t* codes, const float* table,
               const float* scales, Elements y) {
  WithType(y.type, [=](auto type) {
    using T = decltype(type);
    T* const to = As<T>(y);
    ParallelFor((n + block - 1) / block, [=](int64_t b) {
      const int64_t first = b * block;
      ExpandCodes(codes + first / 2, table, scales[b], Smaller(block, n - first), to + first);
    });
  });
}

}  // namespace
}  // namespace thaw
