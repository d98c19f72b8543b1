// What the kernel tests share: the instruction sets that this machine runs, random matrices, and
// comparison against double precision.
#pragma once

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "worker/kernels/kernels.h"

namespace thaw {

class KernelTest : public ::testing::TestWithParam<InstructionSet> {
 protected:
  KernelTest() : kernels(*KernelsFor(GetParam())) {}
  const KernelTable& kernels;
};

inline std::vector<InstructionSet> RunnableSets() {
  std::vector<InstructionSet> sets;
  for (InstructionSet set :
       {InstructionSet::kGeneric, InstructionSet::kAvx2, InstructionSet::kAvx512}) {
    if (KernelsFor(set) != nullptr) sets.push_back(set);
  }
  return sets;
}

inline std::string SetName(const ::testing::TestParamInfo<InstructionSet>& info) {
  static const char* const names[] = {"Generic", "Avx2", "Avx512"};
  return names[static_cast<int>(info.param)];
}

// N(0, scale), the same for the same seed.
inline std::vector<float> RandomFloats(size_t n, uint32_t seed, float scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(n);
  for (float& value : values) value = normal(generator);
  return values;
}

// Philox 4x32-10 as the paper has it, one counter at a time.
inline float ExpectedFactor(const DropoutSite& site, uint32_t row, uint32_t plane, int64_t column) {
  if (!site.active()) return 1;
  uint32_t c[4] = {static_cast<uint32_t>(column / 64 * 16 + column % 16), row, plane, 0};
  uint32_t k[2] = {site.key[0], site.key[1]};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c[0], p1 = uint64_t{0xCD9E8D57} * c[2];
    const uint32_t next[4] = {
        static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(p1),
        static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(p0)};
    std::copy(next, next + 4, c);
    k[0] += 0x9E3779B9;
    k[1] += 0xBB67AE85;
  }
  return c[column % 64 / 16] >= site.threshold ? site.scale : 0;
}

inline double LargestDifference(const std::vector<float>& found,
                                const std::vector<double>& expected) {
  EXPECT_EQ(found.size(), expected.size());
  double largest = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const double difference = std::abs(found[i] - expected[i]);
    if (!(difference <= largest)) largest = difference;
  }
  return largest;
}

}  // namespace thaw
