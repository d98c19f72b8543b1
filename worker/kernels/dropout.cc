#include "worker/kernels/dropout.h"

#include <algorithm>
#include <cmath>

namespace thaw {
namespace {

// The finaliser of splitmix64: every input bit reaches every output bit.
uint64_t MixBits(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace

DropoutSite MakeDropoutSite(uint64_t seed, uint64_t step, uint32_t micro_step, uint32_t site,
                            double probability) {
  DropoutSite made;
  const double threshold = std::min(std::nearbyint(probability * 65536), 65535.0);
  if (threshold < 1) return made;
  uint64_t key = MixBits(seed);
  key = MixBits(key ^ step);
  key = MixBits(key ^ (static_cast<uint64_t>(micro_step) << 32 | site));
  made.key[0] = static_cast<uint32_t>(key);
  made.key[1] = static_cast<uint32_t>(key >> 32);
  made.threshold = static_cast<uint32_t>(threshold);
  made.scale = static_cast<float>(1 / (1 - threshold / 65536));
  return made;
}

float DropoutFactor(const DropoutSite& site, uint32_t row, uint32_t plane, uint32_t column) {
  if (!site.active()) return 1;
  uint32_t counter[4] = {column / 128 * 16 + column % 16, row, plane, 0};
  uint32_t key[2] = {site.key[0], site.key[1]};
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53} * counter[0];
    const uint64_t third = uint64_t{0xCD9E8D57} * counter[2];
    const uint32_t next[4] = {
        static_cast<uint32_t>(third >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(third),
        static_cast<uint32_t>(first >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(first)};
    std::copy(next, next + 4, counter);
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  const uint32_t word = counter[column % 64 / 16];
  const uint32_t bits = column % 128 < 64 ? word & 0xffff : word >> 16;
  return bits >= site.threshold ? site.scale : 0;
}

}  // namespace thaw
