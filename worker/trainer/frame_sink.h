// An attempt's progress as frames to the worker.
#pragma once

#include <cstdint>

#include "worker/training/progress_sink.h"

namespace thaw {

// Writes to `socket`, which outlives it. Messages quote files, which hold anything: here they are
// made what a frame may hold and a terminal may show (clean_text.h). When the worker is gone, what
// is told is lost: the reading side sees the end of the stream and ends the process.
class FrameSink final : public ProgressSink {
 public:
  explicit FrameSink(int socket) : socket_(socket) {}

  void Beat(const v1::Progress& progress, double median_step_seconds) override;
  void Emit(const v1::Event& event) override;
  void CheckpointReady(const internal::CheckpointReady& checkpoint) override;

  // The last frame of the attempt.
  void End(const internal::Ended& ended);

  // The optimizer step that the newest beat told of.
  int64_t last_step() const { return last_step_; }

 private:
  void Write(const internal::FromTrainer& frame);

  const int socket_;
  int64_t last_step_ = 0;
  bool broken_ = false;
};

}  // namespace thaw
