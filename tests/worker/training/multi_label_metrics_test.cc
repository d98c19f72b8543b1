#include "worker/training/multi_label_metrics.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

namespace thaw {
namespace {

TEST(MultiLabelMetrics, DecidesEachLabelByItself) {
  // Labels {0, 2}, {1}, {}; predictions {0, 2}, {0, 1}, {}. Class 3 never occurs.
  MultiLabelMetrics metrics(4);
  const std::array<int32_t, 2> first = {0, 2};
  const std::array<int32_t, 1> second = {1};
  metrics.Add(std::array<float, 4>{0, -1, 2, -3}, first);  // a probability of 0.5 says yes
  metrics.Add(std::array<float, 4>{1, 1, -1, -1}, second);
  metrics.Add(std::array<float, 4>{-1, -2, -1, -1}, {});
  const auto no = [](double logit) { return std::log(1 + std::exp(logit)); };
  const auto yes = [&](double logit) { return no(-logit); };
  const double loss = (yes(0) + no(-1) + yes(2) + no(-3)) / 4 +
                      (no(1) + yes(1) + no(-1) + no(-1)) / 4 +
                      (no(-1) + no(-2) + no(-1) + no(-1)) / 4;
  const auto values = metrics.Values();
  EXPECT_NEAR(values.at("loss"), loss / 3, 1e-12);
  EXPECT_NEAR(values.at("accuracy"), 2.0 / 3, 1e-12);
  EXPECT_NEAR(values.at("micro_f1"), 2.0 * 3 / (3 + 4), 1e-12);
  EXPECT_NEAR(values.at("macro_f1"), (2.0 / 3 + 1 + 1 + 0) / 4, 1e-12);
}

// The mean of several models' probabilities may be rounded to 1: log(p / (1 - p)) is infinite
// there.
TEST(MultiLabelMetrics, ProbabilitiesOfNoughtAndOneHaveAFiniteLoss) {
  EXPECT_NEAR(LogitOf(0.25), std::log(0.25 / 0.75), 1e-12);
  EXPECT_EQ(LogitOf(1), 100);
  EXPECT_EQ(LogitOf(0), -100);
  MultiLabelMetrics metrics(3);
  const std::array<int32_t, 1> label = {0};
  const auto sure = static_cast<float>(LogitOf(1)), never = static_cast<float>(LogitOf(0));
  metrics.Add(std::array<float, 3>{sure, sure, never}, label);
  EXPECT_NEAR(metrics.Values().at("loss"), 100.0 / 3, 1e-6);
}

TEST(MultiLabelMetrics, GreatLogitsStayFinite) {
  MultiLabelMetrics metrics(2);
  const std::array<int32_t, 1> label = {0};
  metrics.Add(std::array<float, 2>{-1000, 1000}, label);
  EXPECT_NEAR(metrics.Values().at("loss"), 1000, 1e-9);
}

}  // namespace
}  // namespace thaw
