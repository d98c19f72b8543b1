// The checks behind FineTuneService that need more than one line. Blocking.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/rpc/server_parts.h"
#include "thaw/v1/fine_tune_service.pb.h"

namespace thaw {

// Resolves, checks and accepts a job; with validate_only it only shows what it would be.
absl::StatusOr<v1::Job> SubmitJob(const ServerParts& parts, const Caller& caller,
                                  const v1::CreateJobRequest& request);

// Checks the new values as a whole spec would be, then updates.
absl::StatusOr<v1::Job> ChangeJob(const ServerParts& parts, const Caller& caller,
                                  const v1::UpdateJobRequest& request);

// Checks the action and notes it for the job's trainer.
absl::StatusOr<v1::Job> ActOnJob(const ServerParts& parts, const Caller& caller,
                                 const v1::SteerJobRequest& request);

absl::StatusOr<v1::ReadJobLogResponse> ReadLog(const ServerParts& parts, const Caller& caller,
                                               const v1::ReadJobLogRequest& request);

// `value` if it lies within 1 and `most`, `fallback` for 0.
absl::StatusOr<int> PageSize(absl::string_view field, int value, int most, int fallback);

}  // namespace thaw
