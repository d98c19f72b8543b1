#include "worker/kernels/dropout.h"

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
  const double threshold = std::nearbyint(probability * 4294967296.0);
  if (threshold < 1) return made;
  uint64_t key = MixBits(seed);
  key = MixBits(key ^ step);
  key = MixBits(key ^ (static_cast<uint64_t>(micro_step) << 32 | site));
  made.key[0] = static_cast<uint32_t>(key);
  made.key[1] = static_cast<uint32_t>(key >> 32);
  made.threshold = threshold > 4294967295.0 ? 4294967295u : static_cast<uint32_t>(threshold);
  made.scale = static_cast<float>(1 / (1 - probability));
  return made;
}

}  // namespace thaw
