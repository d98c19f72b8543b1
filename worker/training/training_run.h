// A training attempt from its assignment to its end.
#pragma once

#include "common/base/clock.h"
#include "thaw/internal/trainer.pb.h"
#include "worker/training/control.h"
#include "worker/training/progress_sink.h"
#include "worker/training/scratch_file.h"

namespace thaw {

// What surrounds an attempt; all of it outlives the attempt.
struct AttemptContext {
  ProgressSink* sink = nullptr;
  Control* control = nullptr;
  const Clock* clock = nullptr;
  // Least time between the metric points of two steps.
  double point_interval_seconds = 0.1;
  // That holds the attempt's work_dir.
  ScratchDisk disk = {};
};

// Runs `run.assignment`, whose work is a training, on the calling thread and the compute threads
// that are set. Leaves checkpoints in work_dir/checkpoints/ and the result in work_dir/result.
// Everything that can go wrong is in what it returns, except LibTorch's exceptions and
// std::bad_alloc, which pass through.
//
// Bit-identity: order of the data, dropout and sums depend on the spec and the step alone, so that
// an attempt that goes on from any checkpoint ends as an uninterrupted one, on the same
// fingerprint.
internal::Ended RunTraining(const internal::Run& run, const AttemptContext& context);

}  // namespace thaw
