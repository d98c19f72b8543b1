// The worker's frames as requests to the running attempt.
#pragma once

#include "worker/training/control.h"

namespace thaw {

// Reads frames from `socket` until it ends and passes them on to `control`. At the end of the
// stream, or when it cannot be understood any more, the worker is gone and nobody can use what this
// process does: ends the process at once with exit code 0. Never returns.
[[noreturn]] void ReadRequests(int socket, Control* control);

}  // namespace thaw
