#include "worker/training/regression_metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace thaw {
namespace {

// Pearson's coefficient by running means and sums of products of the distances from them (Welford
// 1962).
double Correlation(const std::vector<double>& a, const std::vector<double>& b) {
  double a_mean = 0, b_mean = 0, a_spread = 0, b_spread = 0, together = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const auto count = static_cast<double>(i + 1);
    const double from_a = a[i] - a_mean, from_b = b[i] - b_mean;
    a_mean += from_a / count;
    b_mean += from_b / count;
    a_spread += from_a * (a[i] - a_mean);
    b_spread += from_b * (b[i] - b_mean);
    together += from_a * (b[i] - b_mean);
  }
  if (a_spread == 0 || b_spread == 0) return 0;
  return together / (std::sqrt(a_spread) * std::sqrt(b_spread));
}

// From 1; equal numbers share the mean of theirs.
std::vector<double> Ranks(const std::vector<double>& numbers) {
  std::vector<size_t> order(numbers.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return numbers[a] < numbers[b]; });
  std::vector<double> ranks(numbers.size());
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin + 1;
    while (end < order.size() && numbers[order[end]] == numbers[order[begin]]) ++end;
    for (size_t i = begin; i < end; ++i) {
      ranks[order[i]] = static_cast<double>(begin + 1 + end) / 2;
    }
    begin = end;
  }
  return ranks;
}

bool AllFinite(const std::vector<double>& numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [](double n) { return std::isfinite(n); });
}

}  // namespace

void RegressionMetrics::Add(double predicted, double truth) {
  predicted_.push_back(predicted);
  truth_.push_back(truth);
  squared_ += (predicted - truth) * (predicted - truth);
}

std::map<std::string, double> RegressionMetrics::Values() const {
  const double mean = squared_ / static_cast<double>(predicted_.size());
  double pearson = std::numeric_limits<double>::quiet_NaN(), spearman = pearson;
  if (AllFinite(predicted_) && AllFinite(truth_)) {
    pearson = Correlation(predicted_, truth_);
    spearman = Correlation(Ranks(predicted_), Ranks(truth_));
  }
  return {
      {"loss", mean}, {"mean_squared_error", mean}, {"pearson", pearson}, {"spearman", spearman}};
}

}  // namespace thaw
