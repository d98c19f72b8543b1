// The one mapping between absl::Status and gRPC's, details included: violations become
// google.rpc.BadRequest, a reason becomes google.rpc.ErrorInfo, a retry delay google.rpc.RetryInfo,
// and back.
#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace thaw {

// INTERNAL, UNKNOWN and DATA_LOSS are logged as an incident here, and the caller is told its id
// instead of the message.
grpc::Status ToGrpcStatus(const absl::Status& status);

// Restores violations, reason and retry delay.
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace thaw
