#include "worker/agent/devices.h"

#include <dlfcn.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "worker/agent/trainer_devices.h"
#include "worker/agent/usable_memory.h"

namespace thaw {
namespace {

v1::Device CpuDevice() {
  v1::Device device;
  device.set_kind(v1::Resources::CPU);
  device.set_name("CPU");
  if (const auto info = ReadFile("/proc/cpuinfo"); info.ok()) {
    for (absl::string_view line : absl::StrSplit(*info, '\n')) {
      const std::pair<absl::string_view, absl::string_view> parts =
          absl::StrSplit(line, absl::MaxSplits(':', 1));
      if (absl::StripAsciiWhitespace(parts.first) == "model name") {
        device.set_name(std::string(absl::StripAsciiWhitespace(parts.second)));
        break;
      }
    }
  }
  cpu_set_t usable;
  const bool known = sched_getaffinity(0, sizeof(usable), &usable) == 0;
  device.set_cores(known ? CPU_COUNT(&usable) : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
  device.set_memory_bytes(UsableMemoryBytes());
  return device;
}

// The driver's own library, opened here and not linked: one binary serves machines with and without
// it.
absl::StatusOr<std::vector<v1::Device>> CudaDevices(const std::string& library) {
  void* driver = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("no CUDA driver (", library, ") can be opened"));
  }
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto count_devices = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDeviceGetCount"));
  const auto get_name =
      reinterpret_cast<int (*)(char*, int, int)>(dlsym(driver, "cuDeviceGetName"));
  const auto get_memory =
      reinterpret_cast<int (*)(size_t*, int)>(dlsym(driver, "cuDeviceTotalMem_v2"));
  if (init == nullptr || count_devices == nullptr || get_name == nullptr || get_memory == nullptr) {
    return absl::FailedPreconditionError("the CUDA driver lacks functions that every version has");
  }
  int count = 0;
  if (init(0) != 0 || count_devices(&count) != 0 || count == 0) {
    return absl::FailedPreconditionError("the CUDA driver is there but shows no GPU");
  }
  std::vector<v1::Device> devices;
  for (int i = 0; i < count; ++i) {
    char name[128] = {};
    size_t memory = 0;
    // A device's handle is its ordinal in every driver to date.
    if (get_name(name, sizeof(name) - 1, i) != 0 || get_memory(&memory, i) != 0) continue;
    v1::Device& device = devices.emplace_back();
    device.set_kind(v1::Resources::CUDA);
    device.set_name(name);
    device.set_memory_bytes(static_cast<int64_t>(memory));
  }
  return devices;
}

absl::Status CheckComputesOnCuda(const std::string& trainer) {
  THAW_ASSIGN_OR_RETURN(const std::vector<std::string> kinds, AskTrainerDevices(trainer));
  if (std::find(kinds.begin(), kinds.end(), "cuda") != kinds.end()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(trainer, " computes on ", absl::StrJoin(kinds, ", "),
                   " only: give --devices cpu, or a --trainer that computes on GPUs"));
}

}  // namespace

absl::StatusOr<std::vector<v1::Device>> FindDevices(const DeviceSearch& search) {
  if (search.which == "cpu") return std::vector<v1::Device>{CpuDevice()};
  absl::StatusOr<std::vector<v1::Device>> cuda = CudaDevices(search.driver);
  if (cuda.ok()) {
    const absl::Status status = CheckComputesOnCuda(search.trainer);
    if (status.ok()) return cuda;
    if (search.which == "auto") {
      THAW_LOG(kInfo, "gpus_not_offered", {"gpus", cuda->size()}, {"why", status.message()});
    }
    cuda = status;
  }
  if (search.which == "cuda") return cuda;
  return std::vector<v1::Device>{CpuDevice()};
}

}  // namespace thaw
