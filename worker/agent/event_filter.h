// What a worker believes of its trainer. A trainer runs other people's data through native code, so
// what it says is checked before it goes any further.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "thaw/v1/event.pb.h"
#include "thaw/v1/job.pb.h"

namespace thaw {

// One attempt's. Not thread-safe.
class EventFilter {
 public:
  // `clock` must outlive it.
  explicit EventFilter(const Clock& clock) : clock_(clock) {}

  // Cleans `event` (control characters, overlong text, an absurd time) or refuses it: a kind that a
  // trainer may not send, a number that is not finite, a step that goes back, too many values.
  // INVALID_ARGUMENT says what was wrong; the trainer is not to be believed any further then.
  // Generated text beyond the first 1 MiB is taken out: the event is then without a kind, and not
  // to be passed on.
  absl::Status Check(v1::Event* event);

  // Numbers that are not finite become 0, text is cut. INVALID_ARGUMENT for a step that is negative
  // or goes back.
  absl::Status Check(v1::Progress* progress);

  // Newest optimizer step of Progress.
  int64_t step() const { return progress_step_; }

 private:
  const Clock& clock_;
  int64_t point_step_ = 0;
  int64_t progress_step_ = 0;
  int64_t text_bytes_ = 0;  // of generated text passed on, with what each event costs
};

}  // namespace thaw
