#include "worker/trainer/frame_reader.h"

#include <cstdlib>
#include <utility>

#include "common/base/log.h"
#include "common/frames/frame.h"
#include "thaw/internal/trainer.pb.h"

namespace thaw {

void ReadFrames(int socket, Inbox* inbox) {
  for (bool first = true;; first = false) {
    internal::ToTrainer frame;
    const absl::StatusOr<bool> more = ReadFrame(socket, &frame);
    if (!more.ok() || !*more) {
      THAW_LOG(kInfo, "worker_gone", {"status", more.status().ToString()});
      // Destructors of a running training could take long, and would save nothing.
      std::_Exit(first ? 1 : 0);
    }
    if (first && !frame.has_run()) {
      THAW_LOG(kError, "frame_before_run", {"kind", static_cast<int>(frame.frame_case())});
      std::_Exit(1);
    }
    inbox->Take(std::move(frame));
  }
}

}  // namespace thaw
