#include "worker/training/regression_metrics.h"

#include <cmath>

namespace thaw {

void RegressionMetrics::Add(double predicted, double truth) {
  ++examples_;
  squared_ += (predicted - truth) * (predicted - truth);
  const auto count = static_cast<double>(examples_);
  const double from_predicted = predicted - predicted_mean_;
  const double from_truth = truth - truth_mean_;
  predicted_mean_ += from_predicted / count;
  truth_mean_ += from_truth / count;
  predicted_spread_ += from_predicted * (predicted - predicted_mean_);
  truth_spread_ += from_truth * (truth - truth_mean_);
  together_ += from_predicted * (truth - truth_mean_);
}

std::map<std::string, double> RegressionMetrics::Values() const {
  const double mean = squared_ / static_cast<double>(examples_);
  std::map<std::string, double> values = {{"loss", mean}, {"mean_squared_error", mean}};
  if (predicted_spread_ > 0 && truth_spread_ > 0) {
    values["pearson"] = together_ / std::sqrt(predicted_spread_ * truth_spread_);
  }
  return values;
}

}  // namespace thaw
