#include "worker/tuning/rate_groups.h"

namespace thaw {

std::vector<int> RateGroups(int groups) {
  std::vector<int> result(groups);
  const int below = groups - 1;
  for (int i = 0; i < groups; ++i) {
    result[i] = groups <= kMaxRateGroups ? i : i * (kMaxRateGroups - 1) / below;
  }
  return result;
}

std::vector<double> PeakRates(const v1::Phase& phase, int groups) {
  const double decay = phase.has_learning_rate_decay() ? phase.learning_rate_decay() : 1.0;
  const std::vector<int> rate_groups = RateGroups(groups);
  std::vector<double> rates(groups);
  double rate = phase.learning_rate();
  for (int i = groups - 1; i >= 0; --i) {
    if (i + 1 < groups && rate_groups[i] != rate_groups[i + 1]) rate /= decay;
    rates[i] = rate;
  }
  return rates;
}

}  // namespace thaw
