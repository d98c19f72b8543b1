// What a classifier is worth, every example weighted equally.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace thaw {

// Probabilities of the classes, in double: softmax(logits).
std::vector<double> Softmax(std::span<const float> logits);

class ClassificationMetrics {
 public:
  explicit ClassificationMetrics(int classes);

  // One example; the predicted class is the first with the highest logit. Sums are kept in double,
  // in the order of the calls.
  void Add(std::span<const float> logits, int64_t label);

  int64_t examples() const { return examples_; }
  // loss: mean of -log softmax(logits)[label]. accuracy. macro_f1: mean F1 over the classes that
  // occur as label or as prediction; that of one without a hit is 0 (as scikit-learn has it).
  // matthews_correlation: Gorodkin's R_K (2004), for two classes Matthews' coefficient; 0 where all
  // labels or all predictions are the same (as scikit-learn has it). At least one example.
  std::map<std::string, double> Values() const;

  // Examples by label, then by prediction: [label * classes + prediction]. Empty for more than
  // kMostConfusedClasses.
  const std::vector<int64_t>& confusion() const { return confusion_; }
  static constexpr int kMostConfusedClasses = 64;

 private:
  int64_t examples_ = 0;
  double loss_sum_ = 0;
  std::vector<int64_t> hits_, labelled_, predicted_;  // by class
  std::vector<int64_t> confusion_;
};

}  // namespace thaw
