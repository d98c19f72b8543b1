#include "worker/data/data_order.h"

namespace thaw {
namespace {

// SplitMix64's finalizer (Steele, Lea, Flood 2014).
uint64_t MixBits(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

constexpr uint64_t kGoldenGamma = 0x9E3779B97F4A7C15;

}  // namespace

DataOrder::DataOrder(int64_t rows, uint64_t seed, int64_t epoch) : rows_(rows) {
  while (half_bits_ < 31 && (int64_t{1} << (2 * half_bits_)) < rows) ++half_bits_;
  uint64_t state = MixBits(MixBits(seed + kGoldenGamma) + static_cast<uint64_t>(epoch));
  for (uint64_t& key : keys_) key = MixBits(state += kGoldenGamma);
}

int64_t DataOrder::operator[](int64_t position) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t value = static_cast<uint64_t>(position);
  // From 65 rows on the domain is under four times as large, so the walk takes under four steps on
  // average.
  do {
    uint64_t left = value >> half_bits_;
    uint64_t right = value & mask;
    for (const uint64_t key : keys_) {
      const uint64_t mixed = left ^ (MixBits(right + key) & mask);
      left = right;
      right = mixed;
    }
    value = left << half_bits_ | right;
  } while (value >= static_cast<uint64_t>(rows_));
  return static_cast<int64_t>(value);
}

}  // namespace thaw
