#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "thaw/v1/worker_service.pb.h"

namespace thaw {

// The devices that this machine offers. `which` is "auto" (GPUs where the driver is there,
// otherwise the CPU), "cpu" or "cuda". FAILED_PRECONDITION for "cuda" without a driver or a GPU: a
// worker never falls back behind its operator's back.
absl::StatusOr<std::vector<v1::Device>> FindDevices(absl::string_view which);

}  // namespace thaw
