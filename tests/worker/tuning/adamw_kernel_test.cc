#include "worker/tuning/adamw_kernel.h"

#include <gtest/gtest.h>

#include <cmath>
#include <iterator>
#include <random>
#include <utility>
#include <vector>

namespace thaw {
namespace {

TEST(AdamWKernel, FollowsTheFormulaInDouble) {
  constexpr int kCount = 4096;
  constexpr unsigned kSeed = 7;
  std::mt19937 random(kSeed);
  std::normal_distribution<float> normal;
  for (const double weight_decay : {0.0, 0.1}) {
    std::vector<float> p(kCount), g(kCount), m(kCount), v(kCount);
    for (float& value : p) value = normal(random);
    std::vector<double> dp(p.begin(), p.end()), dm(kCount), dv(kCount);
    for (int64_t update = 1; update <= 20; ++update) {
      for (float& value : g) value = 0.1f * normal(random);
      AdamWStep step{.learning_rate = 1e-2,
                     .weight_decay = weight_decay,
                     .gradient_scale = 0.5,
                     .update = update};
      for (int i = 0; i < kCount; ++i) {
        const double gradient = 0.5 * static_cast<double>(g[i]);
        dp[i] *= 1 - 1e-2 * weight_decay;
        dm[i] = 0.9 * dm[i] + 0.1 * gradient;
        dv[i] = 0.999 * dv[i] + 0.001 * gradient * gradient;
        const double bias1 = 1 - std::pow(0.9, static_cast<double>(update));
        const double bias2 = 1 - std::pow(0.999, static_cast<double>(update));
        dp[i] -= 1e-2 / bias1 * dm[i] / (std::sqrt(dv[i]) / std::sqrt(bias2) + 1e-8);
      }
      const std::vector<float> before = p;
      const double changed = UpdateAdamW(step, kCount, p.data(), g.data(), m.data(), v.data());
      double expected = 0;
      for (int i = 0; i < kCount; ++i) {
        expected += std::pow(static_cast<double>(p[i] - before[i]), 2);
      }
      ASSERT_NEAR(changed, expected, 1e-5 * expected);
      for (const float value : g) ASSERT_EQ(value, 0.0f);
    }
    for (int i = 0; i < kCount; ++i) {
      ASSERT_NEAR(p[i], dp[i], 2e-6 * std::max(1.0, std::abs(dp[i]))) << i;
    }
  }
}

TEST(AdamWKernel, SameBitsHoweverTheArrayIsCut) {
  constexpr int kCount = 1024;
  std::vector<float> p(kCount), g(kCount), m(kCount), v(kCount);
  for (int i = 0; i < kCount; ++i) {
    p[i] = std::sin(static_cast<float>(i));
    g[i] = std::cos(static_cast<float>(3 * i));
  }
  std::vector<float> p2 = p, g2 = g, m2 = m, v2 = v;
  const AdamWStep step{.learning_rate = 1e-3, .weight_decay = 0.01, .update = 1};
  UpdateAdamW(step, kCount, p.data(), g.data(), m.data(), v.data());
  for (int begin = 0; begin < kCount; begin += 16) {
    UpdateAdamW(step, 16, &p2[begin], &g2[begin], &m2[begin], &v2[begin]);
  }
  EXPECT_EQ(p, p2);
  EXPECT_EQ(m, m2);
  EXPECT_EQ(v, v2);
}

TEST(AdamWKernel, RoundsToTheNearestBf16AndToTheEvenOneOfTwo) {
  // At no rate and without decay values stay what they are: 1 + 2^-8 lies between two, as does 1 +
  // 3 · 2^-8; the last ones are those of a float's widest range.
  const std::pair<float, uint32_t> cases[] = {
      {0.0f, 0x0000},          {-0.0f, 0x8000},         {1.0f, 0x3f80},
      {1.00390625f, 0x3f80},   {1.00390637f, 0x3f81},   {1.01171875f, 0x3f82},
      {-1.00390637f, 0xbf81},  {3.14159274f, 0x4049},   {1e-40f, 0x0001},
      {3.3895314e38f, 0x7f7f}, {3.4028235e38f, 0x7f80}, {1e-45f, 0x0000}};
  std::vector<float> p(4096), g(p.size()), m(p.size()), v(p.size());
  for (size_t i = 0; i < p.size(); ++i) p[i] = cases[i % std::size(cases)].first;
  std::vector<uint16_t> halves(p.size(), 0xffff);
  UpdateAdamW({}, static_cast<int64_t>(p.size()), p.data(), g.data(), m.data(), v.data(),
              halves.data());
  for (size_t i = 0; i < p.size(); ++i) {
    ASSERT_EQ(halves[i], cases[i % std::size(cases)].second) << p[i] << " at " << i;
  }
}

TEST(AdamWKernel, SumsSquares) {
  std::vector<float> values(1 << 16);
  double expected = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = 1e-3f * static_cast<float>(i % 1000);
    expected += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  }
  EXPECT_NEAR(SumOfSquares(static_cast<int64_t>(values.size()), values.data()), expected,
              1e-7 * expected);
}

}  // namespace
}  // namespace thaw
