// Jobs that the server itself pauses while its disk is short, and what their checkpoints need of
// it.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/jobs/store.h"

namespace thaw {

struct DiskNeed {
  int64_t jobs_at_work = 0;      // STARTING or RUNNING: HoldJobs would pause them
  int64_t jobs_held = 0;         // paused by HoldJobs, or about to be
  int64_t checkpoint_bytes = 0;  // one more checkpoint of each of both kinds
};

// A checkpoint is taken for as large as the job's newest, or as four times the base model's share
// that trains (weights, the best ones, two moments), whichever is more. What has not begun, and a
// prediction, needs nothing.
absl::StatusOr<DiskNeed> GetDiskNeed(Reader& reader);

// Pauses every job that a worker has.
absl::Status HoldJobs(Transaction& transaction);
// Queues again what HoldJobs has paused and no user has paused or resumed since. A job that still
// writes its checkpoint is left for a later call.
absl::Status ReleaseJobs(Transaction& transaction);

}  // namespace thaw
