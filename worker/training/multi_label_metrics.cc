#include "worker/training/multi_label_metrics.h"

#include <algorithm>
#include <cmath>

namespace thaw {
namespace {

double F1(int64_t hits, int64_t labelled, int64_t predicted) {
  const int64_t occurrences = labelled + predicted;
  return occurrences == 0 ? 0 : 2.0 * static_cast<double>(hits) / static_cast<double>(occurrences);
}

}  // namespace

double LogitOf(double probability) {
  constexpr double kLeast = -100;
  return std::max(std::log(probability), kLeast) - std::max(std::log1p(-probability), kLeast);
}

MultiLabelMetrics::MultiLabelMetrics(int classes)
    : hits_(classes), labelled_(classes), predicted_(classes) {}

void MultiLabelMetrics::Add(std::span<const float> logits, std::span<const int32_t> labels) {
  bool exact = true;
  double loss = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double logit = logits[i];
    const bool has =
        std::find(labels.begin(), labels.end(), static_cast<int32_t>(i)) != labels.end();
    const bool says = logit >= 0;
    // -log of the probability of what is so, without overflow.
    loss += std::max(logit, 0.0) - (has ? logit : 0) + std::log1p(std::exp(-std::abs(logit)));
    labelled_[i] += has;
    predicted_[i] += says;
    hits_[i] += has && says;
    exact = exact && has == says;
  }
  loss_sum_ += loss / static_cast<double>(logits.size());
  exact_ += exact;
  ++examples_;
}

std::map<std::string, double> MultiLabelMetrics::Values() const {
  int64_t hits = 0, labelled = 0, predicted = 0;
  double f1_sum = 0;
  for (size_t i = 0; i < hits_.size(); ++i) {
    hits += hits_[i];
    labelled += labelled_[i];
    predicted += predicted_[i];
    f1_sum += F1(hits_[i], labelled_[i], predicted_[i]);
  }
  const auto examples = static_cast<double>(examples_);
  return {{"accuracy", static_cast<double>(exact_) / examples},
          {"loss", loss_sum_ / examples},
          {"macro_f1", f1_sum / static_cast<double>(hits_.size())},
          {"micro_f1", F1(hits, labelled, predicted)}};
}

}  // namespace thaw
