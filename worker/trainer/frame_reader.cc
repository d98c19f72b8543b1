#include "worker/trainer/frame_reader.h"

#include <cstdlib>

#include "common/base/log.h"
#include "common/frames/frame.h"
#include "thaw/internal/trainer.pb.h"

namespace thaw {

void ReadRequests(int socket, Control* control) {
  internal::ToTrainer frame;
  while (true) {
    const absl::StatusOr<bool> more = ReadFrame(socket, &frame);
    if (!more.ok() || !*more) {
      THAW_LOG(kInfo, "worker_gone", {"status", more.status().ToString()});
      // Destructors of a running training could take long, and would save nothing.
      std::_Exit(0);
    }
    switch (frame.frame_case()) {
      case internal::ToTrainer::kWriteCheckpoint:
        control->RequestCheckpoint();
        break;
      case internal::ToTrainer::kPause:
        control->RequestPause();
        break;
      case internal::ToTrainer::kStop:
        control->RequestStop();
        break;
      case internal::ToTrainer::kHold:
        control->Hold();
        break;
      case internal::ToTrainer::kResume:
        control->Resume();
        break;
      default:
        THAW_LOG(kWarning, "frame_ignored", {"kind", static_cast<int>(frame.frame_case())});
    }
  }
}

}  // namespace thaw
