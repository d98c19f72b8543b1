// See simd.h for how this is included.
#pragma once

#include "worker/kernels/dropout.h"
#include "worker/kernels/simd.h"

namespace thaw {
namespace {

constexpr int64_t kDropoutBlock = 128;  // columns whose bits one set of counters gives

// factors[c] = 0 or scale for the 128 columns of `block`. As in dropout.h.
THAW_INLINE void DropoutFactors(const DropoutSite& site, uint32_t row, uint32_t plane,
                                int64_t block, float* factors) {
  Words lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = static_cast<uint32_t>(i);
  const Floats scale = All(site.scale), zero = {};
  for (int64_t first = 0; first < 16; first += kLanes) {
    Words c0 = lane + static_cast<uint32_t>(block * 16 + first);
    Words c1 = Words{} + row, c2 = Words{} + plane, c3 = {};
    uint32_t k0 = site.key[0], k1 = site.key[1];
    for (int round = 0; round < 10; ++round) {
      const Words high0 = HighProduct(c0, 0xD2511F53u), low0 = c0 * 0xD2511F53u;
      const Words high2 = HighProduct(c2, 0xCD9E8D57u), low2 = c2 * 0xCD9E8D57u;
      c0 = high2 ^ c1 ^ k0;
      c1 = low2;
      c2 = high0 ^ c3 ^ k1;
      c3 = low0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    const Words words[4] = {c0, c1, c2, c3};
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
