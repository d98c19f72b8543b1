#include "worker/kernels/dropout.h"

#include <set>
#include <utility>

#include "tests/worker/kernels/kernel_test_cases.h"

namespace thaw {
namespace {

class DropoutTest : public KernelTest {};

// The known answer of Random123's kat_vectors for philox4x32-10 with counter and key 0, read
// through the reference of these tests.
TEST(PhiloxReference, AnswersTheKnownVector) {
  DropoutSite site;
  site.scale = 1;
  const uint32_t known[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  for (uint32_t word = 0; word < 4; ++word) {
    for (uint32_t half : {0u, 1u}) {
      const uint32_t bits = known[word] >> (16 * half) & 0xffff, column = half * 64 + word * 16;
      site.threshold = bits;
      EXPECT_EQ(DropoutFactor(site, 0, 0, column), 1);
      site.threshold = bits + 1;
      EXPECT_EQ(DropoutFactor(site, 0, 0, column), 0);
    }
  }
}

TEST_P(DropoutTest, IsTheReferenceAtEveryElement) {
  const DropoutSite site = MakeDropoutSite(7, 11, 3, 5, 0.3);
  const int64_t rows = 5, columns = 300;
  std::vector<float> x(rows * columns, 1);
  kernels.bias_dropout(rows, columns, x.data(), nullptr, site);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      ASSERT_EQ(x[r * columns + c], DropoutFactor(site, static_cast<uint32_t>(r), 0, c))
          << "row " << r << " column " << c;
    }
  }
}

TEST_P(DropoutTest, DropsTheAskedShareAndAddsTheBias) {
  const int64_t rows = 1000, columns = 384;
  std::vector<float> x(rows * columns, 0), bias(columns, 2);
  kernels.bias_dropout(rows, columns, x.data(), bias.data(), MakeDropoutSite(1, 2, 3, 4, 0.1));
  int64_t dropped = 0;
  for (float value : x) {
    dropped += value == 0;
    if (value != 0) {
      ASSERT_NEAR(value, 2 / 0.9, 1e-4);
    }
  }
  // Five standard deviations of a binomial.
  EXPECT_NEAR(static_cast<double>(dropped), 38400, 5 * std::sqrt(384000 * 0.09));
}

TEST(DropoutSites, DifferInEveryPartOfTheKey) {
  std::set<std::pair<uint32_t, uint32_t>> keys;
  for (uint64_t seed : {0, 1}) {
    for (uint64_t step : {0, 1, 2}) {
      for (uint32_t micro_step : {0, 1}) {
        for (uint32_t site : {0, 1, 2}) {
          const DropoutSite made = MakeDropoutSite(seed, step, micro_step, site, 0.5);
          EXPECT_EQ(made.threshold, 0x8000u);
          EXPECT_EQ(made.scale, 2);
          keys.insert({made.key[0], made.key[1]});
        }
      }
    }
  }
  EXPECT_EQ(keys.size(), 2u * 3 * 2 * 3);
  EXPECT_FALSE(MakeDropoutSite(1, 1, 1, 1, 0).active());
}

INSTANTIATE_TEST_SUITE_P(Sets, DropoutTest, ::testing::ValuesIn(RunnableSets()), SetName);

}  // namespace
}  // namespace thaw
