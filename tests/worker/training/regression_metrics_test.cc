#include "worker/training/regression_metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

namespace thaw {
namespace {

TEST(RegressionMetrics, SquaredErrorAndCorrelation) {
  RegressionMetrics metrics;
  metrics.Add(1, 2);
  metrics.Add(2, 2);
  metrics.Add(4, 5);
  const auto values = metrics.Values();
  EXPECT_NEAR(values.at("mean_squared_error"), 2.0 / 3, 1e-12);
  EXPECT_EQ(values.at("loss"), values.at("mean_squared_error"));
  // Distances from the means 7/3 and 3: -4/3 -1/3 5/3 and -1 -1 2.
  EXPECT_NEAR(values.at("pearson"), 5 / std::sqrt(42.0 / 9 * 6), 1e-12);
}

// Values of scipy 1.17.1: pearsonr and spearmanr of these numbers, which are those of a linear
// congruential generator, x = (1103515245 x + 12345) mod 2^31, its upper bits. With few levels many
// are equal.
TEST(RegressionMetrics, AgreeWithScipy) {
  struct Case {
    int examples;
    int64_t levels;
    uint64_t seed;
    double pearson;
    double spearman;
  };
  for (const Case& one : std::vector<Case>{{40, 1000, 5, 0.8723652206994298, 0.8836772983114447},
                                           {100, 6, 11, 0.9080767641394079, 0.9172836390552267}}) {
    uint64_t state = one.seed;
    const auto next = [&] {
      state = (state * 1103515245 + 12345) % (uint64_t{1} << 31);
      return static_cast<double>(static_cast<int64_t>(state >> 16) % one.levels);
    };
    RegressionMetrics metrics;
    for (int i = 0; i < one.examples; ++i) {
      const double truth = next() / 8;
      metrics.Add(truth + next() / 16 - static_cast<double>(one.levels) / 64, truth);
    }
    EXPECT_NEAR(metrics.Values().at("pearson"), one.pearson, 1e-12);
    EXPECT_NEAR(metrics.Values().at("spearman"), one.spearman, 1e-12);
  }
}

TEST(RegressionMetrics, NumbersThatAreNoneGiveNone) {
  RegressionMetrics metrics;
  metrics.Add(std::nan(""), 1);
  metrics.Add(1, 2);
  EXPECT_TRUE(std::isnan(metrics.Values().at("spearman")));
}

TEST(RegressionMetrics, WhatDoesNotVaryHasNoCorrelation) {
  RegressionMetrics metrics;
  metrics.Add(1, 3);
  metrics.Add(2, 3);
  EXPECT_EQ(metrics.Values().at("pearson"), 0);
  EXPECT_EQ(metrics.Values().at("spearman"), 0);
}

}  // namespace
}  // namespace thaw
