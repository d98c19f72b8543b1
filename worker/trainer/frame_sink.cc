#include "worker/trainer/frame_sink.h"

#include "common/base/clean_text.h"
#include "common/base/log.h"
#include "common/frames/frame.h"

namespace thaw {
namespace {

// No more than the worker passes on.
constexpr size_t kLongestText = 4096;

void Clean(std::string* text) { *text = CleanText(*text, kLongestText); }

}  // namespace

void FrameSink::Beat(const v1::Progress& progress, double median_step_seconds) {
  last_step_ = progress.step();
  internal::FromTrainer frame;
  *frame.mutable_beat()->mutable_progress() = progress;
  frame.mutable_beat()->set_median_step_seconds(median_step_seconds);
  Write(frame);
}

void FrameSink::Emit(const v1::Event& event) {
  internal::FromTrainer frame;
  *frame.mutable_event() = event;
  if (event.has_warning()) Clean(frame.mutable_event()->mutable_warning()->mutable_message());
  if (event.has_log_line()) Clean(frame.mutable_event()->mutable_log_line()->mutable_text());
  Write(frame);
}

void FrameSink::CheckpointReady(const internal::CheckpointReady& checkpoint) {
  internal::FromTrainer frame;
  *frame.mutable_checkpoint_ready() = checkpoint;
  Write(frame);
}

void FrameSink::End(const internal::Ended& ended) {
  internal::FromTrainer frame;
  *frame.mutable_ended() = ended;
  if (ended.end().has_failure()) {
    Clean(frame.mutable_ended()->mutable_end()->mutable_failure()->mutable_message());
  }
  Write(frame);
}

void FrameSink::Write(const internal::FromTrainer& frame) {
  if (broken_) return;
  const absl::Status status = WriteFrame(socket_, frame);
  if (status.ok()) return;
  broken_ = true;
  THAW_LOG(kError, "frame_not_written", {"error", status.ToString()});
}

}  // namespace thaw
