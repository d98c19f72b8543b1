#include "worker/tuning/rate_groups.h"

#include <gtest/gtest.h>

namespace thaw {
namespace {

TEST(RateGroups, AtMostFiveTheHeadAlone) {
  const std::vector<std::pair<int, std::vector<int>>> cases = {
      {2, {0, 1}},
      {5, {0, 1, 2, 3, 4}},
      {6, {0, 0, 1, 2, 3, 4}},
      {8, {0, 0, 1, 1, 2, 2, 3, 4}},                      // MiniLM, 6 blocks
      {14, {0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4}}};  // BERT-base, 12 blocks
  for (const auto& [groups, expected] : cases) EXPECT_EQ(RateGroups(groups), expected) << groups;
}

TEST(RateGroups, RatesFallByTheDecay) {
  v1::Phase phase;
  phase.set_learning_rate(0.01);
  EXPECT_EQ(PeakRates(phase, 3), std::vector<double>({0.01, 0.01, 0.01}));
  phase.set_learning_rate_decay(2.6);
  const std::vector<double> rates = PeakRates(phase, 8);
  EXPECT_DOUBLE_EQ(rates[7], 0.01);
  EXPECT_DOUBLE_EQ(rates[6], 0.01 / 2.6);
  EXPECT_DOUBLE_EQ(rates[5], 0.01 / 2.6 / 2.6);
  EXPECT_DOUBLE_EQ(rates[4], rates[5]);
  EXPECT_DOUBLE_EQ(rates[0], 0.01 / 2.6 / 2.6 / 2.6 / 2.6);
}

}  // namespace
}  // namespace thaw
