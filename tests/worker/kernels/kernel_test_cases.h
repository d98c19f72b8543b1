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
