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

// The numbers of a linear congruential generator: x = (1103515245 x + 12345) mod 2^31, of which the
// upper bits are given.
class NumberStream {
 public:
  explicit NumberStream(uint64_t seed) : state_(seed) {}
  int64_t Next() {
    state_ = (state_ * 1103515245 + 12345) % (uint64_t{1} << 31);
    return static_cast<int64_t>(state_ >> 16);
  }

 private:
  uint64_t state_;
};

// Values of scikit-learn 1.9.1: matthews_corrcoef, accuracy_score, f1_score(average="macro") and
// confusion_matrix of these labels and answers.
TEST(ClassificationMetrics, AgreeWithScikitLearn) {
  struct Case {
    int classes;
    int examples;
    uint64_t seed;
    double matthews;
    double accuracy;
    double macro_f1;
    std::vector<int64_t> confusion;
  };
  for (const Case& one : std::vector<Case>{
           {2, 50, 1, 0.726106525690946, 0.86, 0.8599439775910365, {22, 2, 5, 21}},
           {4,
            200,
            7,
            0.6824596690969407,
            0.76,
            0.7603704525288376,
            {42, 6, 6, 6, 2, 39, 4, 2, 3, 1, 35, 2, 5, 5, 6, 36}},
           {10, 30, 3, 0.604551266231854, 0.6333333333333333, 0.5938095238095238, {}}}) {
    NumberStream numbers(one.seed);
    ClassificationMetrics metrics(one.classes);
    for (int i = 0; i < one.examples; ++i) {
      const int64_t label = numbers.Next() % one.classes;
      const int64_t answer = numbers.Next() % 3 != 0 ? label : numbers.Next() % one.classes;
      std::vector<float> logits(static_cast<size_t>(one.classes));
      logits[static_cast<size_t>(answer)] = 1;
      metrics.Add(logits, label);
    }
    const auto values = metrics.Values();
    EXPECT_NEAR(values.at("matthews_correlation"), one.matthews, 1e-12);
    EXPECT_NEAR(values.at("accuracy"), one.accuracy, 1e-12);
    EXPECT_NEAR(values.at("macro_f1"), one.macro_f1, 1e-12);
    if (!one.confusion.empty()) {
      EXPECT_EQ(metrics.confusion(), one.confusion);
    }
  }
}

TEST(ClassificationMetrics, WhatDoesNotVaryHasNoCorrelation) {
  ClassificationMetrics metrics(3);
  metrics.Add(std::array<float, 3>{1, 0, 0}, 0);
  metrics.Add(std::array<float, 3>{1, 0, 0}, 1);
  EXPECT_EQ(metrics.Values().at("matthews_correlation"), 0);
  EXPECT_TRUE(ClassificationMetrics(65).confusion().empty());
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
