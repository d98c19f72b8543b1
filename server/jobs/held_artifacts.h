// What a job holds so that nobody removes it: its inputs and, of a prediction with a training as
// its model, that training's checkpoint and inputs. Checkpoints go when nobody needs them any more.
// Only for the files of this folder.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/jobs/job_row.h"

namespace thaw {

// The training behind a prediction whose model is a job that had not ended; empty for any other
// spec.
std::string TrainingBehindOf(const v1::JobSpec& resolved_spec);

// Holds what the resolved spec of job `number` names, within the transaction that accepts it.
// `visible_owner` as in NewJob. INVALID_ARGUMENT with every artifact that is missing, of the wrong
// kind or not READY; ABORTED with reason CHECKPOINT_GONE if the training has moved on or ended
// since the spec was resolved; RESOURCE_EXHAUSTED with reason CHECKPOINTS_HELD if predictions hold
// eight other checkpoints of it.
absl::Status HoldArtifacts(Transaction& transaction, const std::string& visible_owner,
                           const v1::JobSpec& resolved_spec, int64_t number);

// An ended job holds nothing: no inputs, and none of its checkpoints but those that a prediction
// holds.
absl::Status ReleaseArtifacts(Transaction& transaction, JobRow* row);

// Removes checkpoints of the training `job`, unless a prediction holds them: all once it has ended,
// otherwise all but the newest two and the newest best.
absl::Status PruneCheckpoints(Transaction& transaction, const std::string& job, bool ended);

}  // namespace thaw
