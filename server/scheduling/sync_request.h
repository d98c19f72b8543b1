#pragma once

#include "absl/status/status.h"
#include "thaw/v1/worker_service.pb.h"

namespace thaw {

// Whether the request is well formed: names, numbers, sizes, no attempt twice. INVALID_ARGUMENT
// with every wrong field. A lying worker gets no further.
absl::Status CheckSyncRequest(const v1::SyncRequest& request);

}  // namespace thaw
