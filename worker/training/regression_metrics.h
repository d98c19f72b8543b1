// How far predicted numbers are from the true ones, every example weighted equally.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace thaw {

class RegressionMetrics {
 public:
  void Add(double predicted, double truth);

  // mean_squared_error; loss, which is the same; pearson: the coefficient of correlation; spearman:
  // that of the ranks, where equal numbers share the mean of theirs. Both are 0 where one side does
  // not vary, and NaN where a number is not finite. At least one example.
  std::map<std::string, double> Values() const;

 private:
  std::vector<double> predicted_, truth_;
  double squared_ = 0;
};

}  // namespace thaw
