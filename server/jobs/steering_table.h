// What users ask of trainings while they run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/jobs/store.h"
#include "thaw/v1/fine_tune_service.pb.h"

namespace thaw {

// Notes what `request` asks for, with its event; the job as it then is. `owner` is who asks, as in
// job_table.h. The request's id once more, for the same job: does nothing, or ALREADY_EXISTS if it
// asked for something else. FAILED_PRECONDITION with reason NOT_A_TRAINING, JOB_ENDED, NOT_BEGUN
// (of a stop) or STEERED_TOO_OFTEN. The request is valid.
absl::StatusOr<v1::Job> SteerJob(Transaction& transaction, const std::string& owner,
                                 const v1::SteerJobRequest& request);

// The rest only for the files of this folder; `job` is JobRow.number.

// In order; `waiting`: only what no attempt has told of as applied.
absl::StatusOr<std::vector<v1::SteeringRecord>> SteeringsOf(Reader& reader, int64_t job,
                                                            bool waiting);

// An attempt tells that it has applied number `told->number()` after told->step() steps: true, with
// what was asked for in `told`, if nobody has told so before.
absl::StatusOr<bool> MarkApplied(Transaction& transaction, int64_t job, v1::SteeringRecord* told);

}  // namespace thaw
