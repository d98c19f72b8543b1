// Jobs that the server itself pauses while its disk is short, and what their checkpoints need of
// it.
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/jobs/store.h"

namespace thaw {

// A job that has a checkpoint to write, now or when it goes on.
struct DiskNeed {
  enum Standing {
    kPausing,  // its trainer writes one now, for whoever paused it
    kAtWork,   // STARTING or RUNNING: HoldJobs would pause it
    kQueued,   // on its way back, with a checkpoint to go on from; told only where others are held
    kHeld,     // paused by HoldJobs
  };
  int64_t job = 0;  // JobRow.number
  Standing standing = kAtWork;
  int64_t checkpoint_bytes = 0;
};

// In the order of their standing, older jobs first within each.
// A checkpoint is taken for as large as the job's newest, or as four times the base model's share
// that trains (weights, the best ones, two moments), whichever is more. What has not begun, and a
// prediction, needs nothing.
absl::StatusOr<std::vector<DiskNeed>> GetDiskNeeds(Reader& reader);

// Pauses those of `jobs` that a worker has.
absl::Status HoldJobs(Transaction& transaction, const std::set<int64_t>& jobs);
// Queues again those of `jobs` that HoldJobs has paused and no user has paused or resumed since.
absl::Status ReleaseJobs(Transaction& transaction, const std::set<int64_t>& jobs);

}  // namespace thaw
