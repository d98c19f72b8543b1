#include "worker/agent/trainer_watch.h"

#include <algorithm>
#include <cmath>
#include <csignal>

#include "absl/strings/str_cat.h"

namespace thaw {
namespace {

constexpr double kHangSteps = 20;
constexpr double kLongestStep = 3600;

}  // namespace

void TrainerWatch::SetMedianStep(double seconds) {
  median_step_seconds_ = std::isfinite(seconds) ? std::clamp(seconds, 0.0, kLongestStep) : 0;
}

void TrainerWatch::SetHeld(bool held, int64_t now) {
  if (held == held_.has_value()) return;
  alive_ = now;
  held_ = held ? std::optional<int64_t>(now) : std::nullopt;
}

void TrainerWatch::StopAsked(int64_t now) {
  if (!stop_asked_) stop_asked_ = now;
}

void TrainerWatch::Ended(int64_t now) {
  if (!ended_) ended_ = now;
}

bool TrainerWatch::Passed(int64_t since, double seconds, int64_t now) const {
  return static_cast<double>(now - since) * 1e-6 > seconds;
}

std::optional<TrainerWatch::Measure> TrainerWatch::Due(int64_t now) {
  if (killed_) return std::nullopt;
  std::optional<Measure> kill;
  if (ended_) {
    if (Passed(*ended_, patience_.stop_seconds, now)) kill = Measure{SIGKILL, "", false};
  } else if (stop_asked_) {
    if (Passed(*stop_asked_, patience_.stop_seconds, now)) kill = Measure{SIGKILL, "", false};
  } else if (aborted_) {
    if (Passed(*aborted_, patience_.stop_seconds, now)) kill = Measure{SIGKILL, "", false};
  } else if (held_ && Passed(*held_, patience_.hold_seconds, now)) {
    kill = Measure{SIGKILL, "", true};
  }
  if (kill) {
    killed_ = true;
    return kill;
  }
  const double allowed = std::max(patience_.hang_seconds, kHangSteps * median_step_seconds_);
  if (!ended_ && !aborted_ && Passed(alive_, allowed, now)) {
    // Where the host keeps core dumps, this one shows where it hangs.
    aborted_ = now;
    return Measure{
        SIGABRT, absl::StrCat("it gave no sign of life for ", static_cast<int64_t>(allowed), " s"),
        false};
  }
  return std::nullopt;
}

}  // namespace thaw
