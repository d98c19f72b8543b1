#include "worker/training/regression_metrics.h"

#include <gtest/gtest.h>

#include <cmath>

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

TEST(RegressionMetrics, WhatDoesNotVaryHasNoCorrelation) {
  RegressionMetrics metrics;
  metrics.Add(1, 3);
  metrics.Add(2, 3);
  EXPECT_FALSE(metrics.Values().contains("pearson"));
}

}  // namespace
}  // namespace thaw
