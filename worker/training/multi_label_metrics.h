// Loss, accuracy and F1 where each label is decided by itself, every example weighted equally.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace thaw {

// log(p / (1 - p)) of a probability, each logarithm at least -100, as torch's binary_cross_entropy
// has it: a probability that was rounded to 0 or 1 is a great logit, not an infinite one.
double LogitOf(double probability);

class MultiLabelMetrics {
 public:
  explicit MultiLabelMetrics(int classes);

  // One example and the classes that it has. Predicted are those with a probability of 0.5 and
  // more, which is a logit of 0 and more. Sums are kept in double, in the order of the calls.
  void Add(std::span<const float> logits, std::span<const int32_t> labels);

  // loss: mean binary cross-entropy, over classes and examples. accuracy: share of examples with
  // exactly the right classes. micro_f1: F1 over all decisions; macro_f1: mean of the classes' F1.
  // Without a hit it is 0 (as scikit-learn has it). At least one example.
  std::map<std::string, double> Values() const;

 private:
  int64_t examples_ = 0;
  int64_t exact_ = 0;
  double loss_sum_ = 0;
  std::vector<int64_t> hits_, labelled_, predicted_;  // by class
};

}  // namespace thaw
