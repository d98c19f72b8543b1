// Why a trainer ended without saying so.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "thaw/v1/worker_service.pb.h"

namespace thaw {

struct TrainerExit {
  int wait_status = 0;            // of waitpid(2)
  bool killed_by_worker = false;  // we ended it: see `why_killed`
  std::string why_killed;         // such as "no sign of life for 120 s"
  bool kernel_killed_for_memory = false;
  int64_t last_step = 0;
  std::string output_tail;  // the last lines that it wrote
};

// CRASHED, or OUT_OF_MEMORY when the kernel ended it for memory. The message holds the last line of
// output that looks like a cause. Exit code 127 means that the program could not be started, which
// is the worker's fault: FAILED, INFRASTRUCTURE.
v1::AttemptEnd BlameForExit(const TrainerExit& exit);

// Times the kernel has ended a process for memory since boot (oom_kill in /proc/vmstat); 0 if it
// does not say.
int64_t KernelMemoryKills();

}  // namespace thaw
