// Accuracy, F1 and loss of a classifier, every example weighted equally.
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
  // occur as label or as prediction; that of one without a hit is 0 (as scikit-learn has it). At
  // least one example.
  std::map<std::string, double> Values() const;

 private:
  int64_t examples_ = 0;
  double loss_sum_ = 0;
  std::vector<int64_t> hits_, labelled_, predicted_;  // by class
};

}  // namespace thaw
