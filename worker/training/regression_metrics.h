// How far predicted numbers are from the true ones, every example weighted equally.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace thaw {

class RegressionMetrics {
 public:
  void Add(double predicted, double truth);

  // mean_squared_error; loss, which is the same; pearson: the coefficient of correlation, left out
  // where one side does not vary. At least one example.
  std::map<std::string, double> Values() const;

 private:
  // Running means and sums of products of the distances from them (Welford 1962).
  int64_t examples_ = 0;
  double squared_ = 0;
  double predicted_mean_ = 0, truth_mean_ = 0;
  double predicted_spread_ = 0, truth_spread_ = 0, together_ = 0;
};

}  // namespace thaw
