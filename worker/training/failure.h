// How an attempt ends when it cannot go on.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "thaw/internal/trainer.pb.h"

namespace thaw {

// FAILED with blame, reason and message of `status`: INVALID_ARGUMENT and its like blame the
// request (USER), FAILED_PRECONDITION the data, RESOURCE_EXHAUSTED the resources, UNAVAILABLE the
// infrastructure, anything else Thaw itself, whose message stays in the log under an incident.
// The reason is the one set with WithReason, else one that says as much as the blame.
internal::Ended FailedEnd(const absl::Status& status, int64_t step);

// OUT_OF_MEMORY: the job may be tried again with smaller micro-steps.
internal::Ended OutOfMemoryEnd(int64_t step);

}  // namespace thaw
