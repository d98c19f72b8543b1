#include "worker/training/classification_metrics.h"

#include <algorithm>
#include <cmath>

namespace thaw {

std::vector<double> Softmax(std::span<const float> logits) {
  const double highest = *std::max_element(logits.begin(), logits.end());
  std::vector<double> result(logits.size());
  double sum = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    result[i] = std::exp(static_cast<double>(logits[i]) - highest);
    sum += result[i];
  }
  for (double& value : result) value /= sum;
  return result;
}

ClassificationMetrics::ClassificationMetrics(int classes)
    : hits_(classes), labelled_(classes), predicted_(classes) {
  if (classes <= kMostConfusedClasses) confusion_.resize(static_cast<size_t>(classes) * classes);
}

void ClassificationMetrics::Add(std::span<const float> logits, int64_t label) {
  const auto highest = std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) {
    sum += std::exp(static_cast<double>(logit) - static_cast<double>(*highest));
  }
  loss_sum_ += std::log(sum) + static_cast<double>(*highest) - static_cast<double>(logits[label]);
  const int64_t prediction = highest - logits.begin();
  ++labelled_[label];
  ++predicted_[prediction];
  hits_[label] += prediction == label;
  if (!confusion_.empty()) {
    ++confusion_[static_cast<size_t>(label) * logits.size() + static_cast<size_t>(prediction)];
  }
  ++examples_;
}

std::map<std::string, double> ClassificationMetrics::Values() const {
  int64_t hits = 0;
  int classes = 0;
  double f1_sum = 0;
  // In double: squares of counts overflow 64 bits where doubles only round.
  double both = 0, labelled_squares = 0, predicted_squares = 0;
  for (size_t i = 0; i < hits_.size(); ++i) {
    hits += hits_[i];
    const auto labelled = static_cast<double>(labelled_[i]);
    const auto predicted = static_cast<double>(predicted_[i]);
    both += labelled * predicted;
    labelled_squares += labelled * labelled;
    predicted_squares += predicted * predicted;
    const int64_t occurrences = labelled_[i] + predicted_[i];
    if (occurrences == 0) continue;
    ++classes;
    f1_sum += 2.0 * static_cast<double>(hits_[i]) / static_cast<double>(occurrences);
  }
  const auto examples = static_cast<double>(examples_);
  const double spread =
      (examples * examples - labelled_squares) * (examples * examples - predicted_squares);
  const double together = static_cast<double>(hits) * examples - both;
  return {{"accuracy", static_cast<double>(hits) / examples},
          {"loss", loss_sum_ / examples},
          {"macro_f1", f1_sum / classes},
          {"matthews_correlation", spread > 0 ? together / std::sqrt(spread) : 0}};
}

}  // namespace thaw
