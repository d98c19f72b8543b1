// The one mapping between absl::Status and grpc::Status.
#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace thaw {

// Code and message, with google.rpc details: BadRequest for ViolationsOf (at most 50), ErrorInfo
// for ReasonOf (domain "thaw"), RetryInfo for RetryAfterOf (1 s for UNAVAILABLE without). What the
// caller cannot mend (INTERNAL, UNKNOWN) is logged under an incident id, and only that id is told.
grpc::Status ToGrpcStatus(const absl::Status& status);

// The other way, violations, reason and retry time restored. Never fails: details that cannot be
// read are ignored.
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace thaw
