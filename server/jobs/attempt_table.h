// Attempts: offered, accepted, ended; and what they commit. Every function that names an attempt
// checks the fence: FAILED_PRECONDITION with reason ATTEMPT_STALE if the attempt is not its job's
// live one.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/jobs/records.h"
#include "server/jobs/store.h"

namespace thaw {

// Puts a new attempt of a QUEUED job on disk before it is offered; the job is STARTING. `kind` is
// the kind of device that was chosen. Emits rolled_back from the second attempt on.
// FAILED_PRECONDITION if the job is not QUEUED any more.
absl::StatusOr<v1::Assignment> BeginAttempt(Transaction& transaction, const std::string& job,
                                            const std::string& attempt_id,
                                            const std::string& worker,
                                            v1::Resources::DeviceKind kind);

// What a worker needs to run an attempt that was begun: the resolved spec, its inputs with their
// files (of a prediction with a training as its model that training's), the newest checkpoint, the
// runtime left.
absl::StatusOr<v1::Assignment> BuildAssignment(Reader& reader, const std::string& attempt_id);

// The attempt, live or not. NOT_FOUND if the id was never given out.
absl::StatusOr<AttemptRecord> GetAttempt(Reader& reader, const std::string& attempt_id);
// As above, but ATTEMPT_STALE unless it is live: what a worker's upload needs.
absl::StatusOr<AttemptRecord> GetLiveAttempt(Reader& reader, const std::string& attempt_id);
// The attempts of every unfinished job that are live.
absl::StatusOr<std::vector<AttemptRecord>> LiveAttempts(Reader& reader);

// What a worker reported of a live attempt: accepts it the first time, moves the job on to RUNNING,
// appends events that are new (by the worker's sequence, up to the first gap), keeps the progress,
// and applies the end. Returns the attempt afterwards; its `acknowledged` may go back to the worker
// after the commit.
absl::StatusOr<AttemptRecord> ApplyReport(Transaction& transaction, const std::string& worker,
                                          const std::string& incarnation, int64_t sync_number,
                                          v1::AttemptReport report);

// The attempt is lost: its worker is gone, or does not hold it any more. `detail` in a few words.
absl::Status LoseAttempt(Transaction& transaction, const std::string& attempt_id,
                         const std::string& detail);
// The attempt was never received: costs the job nothing.
absl::Status WithdrawAttempt(Transaction& transaction, const std::string& attempt_id);
// A lost attempt whose job is still QUEUED and was not given to another is live again, to be
// accepted by ApplyReport in the same transaction: true. Otherwise false.
absl::StatusOr<bool> ReattachAttempt(Transaction& transaction, const std::string& worker,
                                     const std::string& attempt_id);

// Publishes a checkpoint in the same transaction as its event. The newest two, the newest best
// and those of live predictions stay; rows of others go (see Store::ObserveRemovedArtifacts).
// Repeating it with the same artifact id does nothing. FAILED_PRECONDITION with reason
// JOB_CANCELLED once the job is CANCELLING.
absl::StatusOr<v1::Artifact> CommitCheckpoint(Transaction& transaction,
                                              const std::string& attempt_id,
                                              const NewCheckpoint& checkpoint);
// The newest checkpoint of a job; empty if there is none.
absl::StatusOr<std::string> NewestCheckpoint(Reader& reader, const std::string& job);
// Publishes the result and ends the job SUCCEEDED; the first one wins.
absl::StatusOr<v1::Artifact> CommitResult(Transaction& transaction, const std::string& attempt_id,
                                          const v1::Artifact& artifact,
                                          const std::map<std::string, double>& metrics);

}  // namespace thaw
