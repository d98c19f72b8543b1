// What a worker believes of its trainer. A trainer runs other people's data through native code, so
// what it says is checked before it goes any further.
#pragma once

#include "absl/status/status.h"
#include "thaw/v1/event.pb.h"
#include "thaw/v1/job.pb.h"

namespace thaw {

class EventFilter {
 public:
  // Cleans `event` (control characters, overlong text) or refuses it: a kind that a trainer may not
  // send, a number that is not finite, a step that goes back, too many values. INVALID_ARGUMENT
  // says what was wrong; the trainer is not to be believed any further then.
  absl::Status Check(v1::Event* event);

  // Numbers that are not finite become 0, text is cut.
  static void Clean(v1::Progress* progress);

 private:
  int64_t last_step_ = 0;
};

}  // namespace thaw
