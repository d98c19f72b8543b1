#include "worker/tuning/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace thaw {
namespace {

double SlantedTriangular(const v1::Schedule& schedule, int64_t step, int64_t steps) {
  const double cut_fraction = schedule.has_cut_fraction() ? schedule.cut_fraction() : 0.1;
  const double ratio = schedule.has_ratio() ? schedule.ratio() : 32.0;
  const double cut = std::floor(static_cast<double>(steps) * cut_fraction);
  double p;
  if (cut == 0) {
    p = 1 - static_cast<double>(step) / (static_cast<double>(steps) * (1 - cut_fraction));
  } else if (static_cast<double>(step) < cut) {
    p = static_cast<double>(step) / cut;
  } else {
    p = 1 - (static_cast<double>(step) - cut) / (cut * (1 / cut_fraction - 1));
  }
  return (1 + std::max(p, 0.0) * (ratio - 1)) / ratio;
}

// Half a cosine from `from` to `to`; `done` is 0 to 1.
double HalfCosine(double from, double to, double done) {
  return to + (from - to) * (1 + std::cos(std::numbers::pi * done)) / 2;
}

double OneCycle(const v1::Schedule& schedule, int64_t step, int64_t steps) {
  const double first = 1 / (schedule.has_ratio() ? schedule.ratio() : 25.0);
  const double last = 1 / (schedule.has_final_ratio() ? schedule.final_ratio() : 1e5);
  const double cut =
      static_cast<double>(steps) * (schedule.has_cut_fraction() ? schedule.cut_fraction() : 0.25);
  const double at = static_cast<double>(step);
  return at < cut ? HalfCosine(first, 1, at / cut)
                  : HalfCosine(1, last, (at - cut) / (static_cast<double>(steps) - cut));
}

}  // namespace

double RateShare(const v1::Schedule& schedule, int64_t step, int64_t steps) {
  if (schedule.shape() == v1::Schedule::SLANTED_TRIANGULAR) {
    return SlantedTriangular(schedule, step, steps);
  }
  if (schedule.shape() == v1::Schedule::ONE_CYCLE) return OneCycle(schedule, step, steps);
  const int64_t warmup = schedule.warmup_fraction() > 0
                             ? static_cast<int64_t>(std::ceil(
                                   schedule.warmup_fraction() * static_cast<double>(steps) - 1e-9))
                             : schedule.warmup_steps();
  if (step < warmup) return static_cast<double>(step) / static_cast<double>(warmup);
  // At least 1: a warm-up as long as the phase leaves no steps to come down in.
  const double length = static_cast<double>(std::max<int64_t>(steps - warmup, 1));
  const double done = static_cast<double>(step - warmup) / length;
  switch (schedule.shape()) {
    case v1::Schedule::LINEAR:
      return 1 - done;
    case v1::Schedule::COSINE:
      return HalfCosine(1, 0, done);
    default:
      return 1;
  }
}

}  // namespace thaw
