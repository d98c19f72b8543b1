#include "worker/training/classification_metrics.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

namespace thaw {
namespace {

TEST(ClassificationMetrics, CountsEveryExampleOnce) {
  // Labels 0 0 0 1 2 2, predictions 0 0 1 1 2 0; class 3 never occurs.
  const std::array<std::pair<int, int>, 6> cases = {
      {{0, 0}, {0, 0}, {0, 1}, {1, 1}, {2, 2}, {2, 0}}};
  ClassificationMetrics metrics(4);
  double loss = 0;
  for (const auto& [label, prediction] : cases) {
    std::array<float, 4> logits = {-1, -1, -1, -1};
    logits[prediction] = 2;
    metrics.Add(logits, label);
    const double denominator = std::exp(2.0) + 3 * std::exp(-1.0);
    loss -= std::log(std::exp(label == prediction ? 2.0 : -1.0) / denominator);
  }
  EXPECT_EQ(metrics.examples(), 6);
  const auto values = metrics.Values();
  EXPECT_NEAR(values.at("accuracy"), 4.0 / 6, 1e-12);
  EXPECT_NEAR(values.at("loss"), loss / 6, 1e-12);
  // F1: 2·2/(3+3), 2·1/(1+2), 2·1/(2+1), over the three classes that occur.
  EXPECT_NEAR(values.at("macro_f1"), (4.0 / 6 + 2.0 / 3 + 2.0 / 3) / 3, 1e-12);
}

TEST(ClassificationMetrics, FirstOfEqualLogitsIsThePrediction) {
  ClassificationMetrics metrics(2);
  metrics.Add(std::array<float, 2>{0.5f, 0.5f}, 0);
  EXPECT_EQ(metrics.Values().at("accuracy"), 1.0);
  EXPECT_NEAR(metrics.Values().at("loss"), std::log(2.0), 1e-12);
}

TEST(ClassificationMetrics, SoftmaxStandsLargeLogits) {
  const std::vector<double> scores = Softmax(std::array<float, 3>{1000, 999, -1000});
  EXPECT_NEAR(scores[0], 1 / (1 + std::exp(-1.0)), 1e-12);
  EXPECT_NEAR(scores[0] + scores[1] + scores[2], 1, 1e-12);
  EXPECT_EQ(scores[2], 0);
}

}  // namespace
}  // namespace thaw
