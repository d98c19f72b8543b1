// The worker's frames, from the socket to the training thread.
#pragma once

#include "worker/trainer/inbox.h"

namespace thaw {

// Reads frames from `socket` until it ends and passes them on to `inbox`. At the end of the stream,
// or when it cannot be understood any more, the worker is gone and nobody can use what this process
// does: ends the process at once, with exit code 0, or 1 if nothing was ever read. Never returns.
[[noreturn]] void ReadFrames(int socket, Inbox* inbox);

}  // namespace thaw
