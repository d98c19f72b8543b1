// Where an attempt tells how it goes.
#pragma once

#include "thaw/internal/trainer.pb.h"
#include "thaw/v1/event.pb.h"
#include "thaw/v1/job.pb.h"

namespace thaw {

// All methods are called by the training thread alone and must not block for long.
class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  // A sign of life, a few times a second at most. `median_step_seconds` is 0 before the first step.
  virtual void Beat(const v1::Progress& progress, double median_step_seconds) = 0;
  // An event of the kinds that a WorkerEvent may hold, with its time.
  virtual void Emit(const v1::Event& event) = 0;
  // A checkpoint directory is complete and belongs to the receiver from now on.
  virtual void CheckpointReady(const internal::CheckpointReady& checkpoint) = 0;
};

}  // namespace thaw
