#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "thaw/v1/worker_service.pb.h"

namespace thaw {

struct DeviceSearch {
  // "auto": GPUs where the driver is there and the trainer computes on them, otherwise the CPU.
  // "cpu". "cuda": GPUs or nothing, for a worker never falls back behind its operator's back.
  std::string which = "auto";
  // Asked only when there is a GPU to offer.
  std::string trainer;
  // The library of the CUDA driver; tests have one of their own.
  std::string driver = "libcuda.so.1";
};

// The devices that this machine offers. FAILED_PRECONDITION for "cuda" without a driver, a GPU or a
// trainer that computes on it. "auto" logs why it passes a GPU by.
absl::StatusOr<std::vector<v1::Device>> FindDevices(const DeviceSearch& search);

}  // namespace thaw
