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
  Matrix x = Filled(rows * columns, 1);
  kernels.bias_dropout_add(rows, columns, x.at(), nullptr, site, nullptr, x.at());
  std::vector<float> factors;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      factors.push_back(DropoutFactor(site, static_cast<uint32_t>(r), 0, c));
    }
  }
  EXPECT_EQ(x, Matrix(type, factors));
}

TEST_P(DropoutTest, AddsResidualsOfEitherType) {
  const int64_t rows = 9, columns = 150;
  const std::vector<float> bias = RandomFloats(columns, 2);
  for (RowType result : {RowType::kFloat, RowType::kBf16}) {
    for (const DropoutSite& site : {DropoutSite(), MakeDropoutSite(7, 11, 3, 5, 0.3)}) {
      const Matrix x = Random(rows * columns, 1);
      Matrix residual(result, RandomFloats(rows * columns, 3)), y(result, residual.floats());
      const std::vector<float> xs = x.floats(), residuals = residual.floats();
      std::vector<double> expected;
      for (int64_t i = 0; i < rows * columns; ++i) {
        const double factor = DropoutFactor(site, static_cast<uint32_t>(i / columns), 0,
                                            static_cast<uint32_t>(i % columns));
        expected.push_back((double{xs[i]} + bias[i % columns]) * factor + residuals[i]);
      }
      kernels.bias_dropout_add(rows, columns, x.at(), bias.data(), site, residual.at(), y.at());
      ExpectNear(y, expected, 1e-6, result);
      kernels.bias_dropout_add(rows, columns, x.at(), bias.data(), site, residual.at(),
                               residual.at());
      EXPECT_EQ(residual, y);
    }
  }
}

TEST_P(DropoutTest, DropsTheAskedShareAndAddsTheBias) {
  const int64_t rows = 1000, columns = 384;
  Matrix x = Filled(rows * columns, 0);
  const std::vector<float> bias(columns, 2);
  kernels.bias_dropout_add(rows, columns, x.at(), bias.data(), MakeDropoutSite(1, 2, 3, 4, 0.1),
                           nullptr, x.at());
  int64_t dropped = 0;
  for (float value : x.floats()) {
    dropped += value == 0;
    if (value != 0) {
      ASSERT_NEAR(value, 2 / 0.9, type == RowType::kBf16 ? 1e-2 : 1e-4);
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

INSTANTIATE_TEST_SUITE_P(Cases, DropoutTest, ::testing::ValuesIn(RunnableCases()), CaseName);

}  // namespace
}  // namespace thaw
