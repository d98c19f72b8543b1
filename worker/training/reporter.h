// Turns what happens in an attempt into beats and events, so sampled that a fast job cannot flood
// whoever listens.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "worker/training/progress_sink.h"

namespace thaw {

// L2 norms of one group.
struct GroupNorms {
  std::string group;
  double gradient = 0;  // before clipping
  double update = 0;    // of what the step changed
};

// One optimizer step.
struct StepReport {
  int64_t step = 0;   // from 1
  int32_t phase = 0;  // from 1
  double loss_sum = 0;
  int64_t loss_units = 0;
  double learning_rate = 0;                  // of the topmost trainable group
  double gradient_norm = 0;                  // before clipping
  double update_norm = 0;                    // of what the step changed
  std::vector<GroupNorms> group_norms = {};  // of what trains, topmost last
  int64_t tokens = 0;                        // trained on so far, over all attempts
  int64_t step_tokens = 0;                   // of this step
  double seconds = 0;                        // that it took
};

// The exact sums of steps that no metric point has told of yet; checkpoints keep them.
struct PendingSums {
  double loss_sum = 0;
  int64_t loss_units = 0;
};

// Used by the training thread alone.
class Reporter {
 public:
  // Metric points of steps are at least `point_interval_seconds` apart; about every tenth carries
  // the norms of groups, of no more than the topmost 64.
  Reporter(ProgressSink* sink, const Clock* clock, double point_interval_seconds);

  // What beats carry; the caller keeps it up to date, memory and the step's figures aside.
  v1::Progress& progress() { return progress_; }
  double SecondsSinceStart() const;

  // A sign of life, left out if the one before is less than half a second old.
  void Beat();
  // The same in any case: at the end, so that what is last seen is true.
  void BeatNow();
  void StepDone(const StepReport& report);
  // Sends the newest step's point if it has not been sent.
  void FlushPoint();
  // An evaluation: a point of its own and its event.
  void EvaluationDone(const v1::EvaluationEnd& evaluation);
  void Emit(v1::Event event);
  void Warn(const std::string& reason, const std::string& message);
  // A line for people.
  void Log(const std::string& text);
  void CheckpointReady(const internal::CheckpointReady& checkpoint);

  const PendingSums& pending() const { return pending_; }
  void set_pending(const PendingSums& pending) { pending_ = pending; }

 private:
  double MedianStepSeconds() const;
  double TokensPerSecond() const;

  ProgressSink* const sink_;
  const Clock* const clock_;
  const double point_interval_seconds_;
  const int64_t start_micros_;
  v1::Progress progress_;
  double last_beat_ = -1;
  double last_point_ = -1;
  double last_groups_ = -1;  // the last point with norms of groups
  bool has_unsent_ = false;
  StepReport newest_;
  PendingSums pending_;
  int64_t steps_here_ = 0;            // done in this attempt
  std::vector<double> step_seconds_;  // a ring of the newest ones
  struct Mark {
    double seconds;
    int64_t tokens;
  };
  std::deque<Mark> marks_;  // of the last seconds, for the speed
};

}  // namespace thaw
