// See simd.h for how this is included.
#pragma once

#include "worker/kernels/dropout.h"
#include "worker/kernels/simd.h"

namespace thaw {
namespace {

constexpr int64_t kDropoutBlock = 128;  // columns whose bits one set of counters gives

typedef uint64_t Longs __attribute__((vector_size(4 * THAW_LANES), may_alias));

// Of the lower halves.
THAW_INLINE Longs HalfProduct(Longs a, uint32_t b) {
  const Longs factor = Longs{} + b;
#if THAW_LANES == 16
  return reinterpret_cast<Longs>(
      _mm512_mul_epu32(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(factor)));
#elif THAW_LANES == 8
  return reinterpret_cast<Longs>(
      _mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(factor)));
#else
  return reinterpret_cast<Longs>(
      _mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(factor)));
#endif
}

// The four words of Philox for the counters (c0, c1, c2, 0), see dropout.h. Even and odd lanes go
// separately, each in the lower half of a 64-bit lane, whose upper half nobody reads: so a product
// gives both of its halves at once, and nothing need be put together on the way.
THAW_INLINE void Philox(const DropoutSite& site, Words c0, Words c1, Words c2, Words (&words)[4]) {
  Longs counters[2][4] = {{reinterpret_cast<Longs>(c0), reinterpret_cast<Longs>(c1),
                           reinterpret_cast<Longs>(c2), Longs{}}};
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) counters[1][i] = counters[0][i] >> 32;
  uint32_t k0 = site.key[0], k1 = site.key[1];
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 2
    for (Longs(&c)[4] : counters) {
      const Longs first = HalfProduct(c[0], 0xD2511F53u), third = HalfProduct(c[2], 0xCD9E8D57u);
      c[0] = (third >> 32) ^ c[1] ^ k0;
      c[1] = third;
      c[2] = (first >> 32) ^ c[3] ^ k1;
      c[3] = first;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    words[i] = reinterpret_cast<Words>((counters[0][i] & 0xffffffffu) | (counters[1][i] << 32));
  }
}

// factors[c] = 0 or scale for the 128 columns of `block`. As in dropout.h.
THAW_INLINE void DropoutFactors(const DropoutSite& site, uint32_t row, uint32_t plane,
                                int64_t block, float* factors) {
  Words lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = static_cast<uint32_t>(i);
  const Floats scale = All(site.scale), zero = {};
  for (int64_t first = 0; first < 16; first += kLanes) {
    Words words[4];
    Philox(site, lane + static_cast<uint32_t>(block * 16 + first), Words{} + row, Words{} + plane,
           words);
#pragma GCC unroll 4
    for (int64_t w = 0; w < 4; ++w) {
      float* to = factors + w * 16 + first;
      Store(to, (words[w] & 0xffffu) >= site.threshold ? scale : zero);
      Store(to + 64, (words[w] >> 16) >= site.threshold ? scale : zero);
    }
  }
}

}  // namespace
}  // namespace thaw
