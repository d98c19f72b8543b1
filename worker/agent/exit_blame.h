// How an attempt ended: by what its trainer said, or by how it died.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "thaw/internal/trainer.pb.h"
#include "thaw/v1/worker_service.pb.h"

namespace thaw {

struct TrainerExit {
  int wait_status = 0;  // of waitpid(2)
  // What we ended it for, such as "it gave no sign of life for 120 s"; empty: it was not us.
  std::string why_killed = "";
  bool kernel_killed_for_memory = false;
  int64_t last_step = 0;
  std::string output_tail = "";  // the last lines that it wrote, any bytes
};

// CRASHED, or OUT_OF_MEMORY when the kernel ended it for memory. The message holds its last line of
// output. Exit code 127 means that the program could not be started, which is the worker's fault:
// FAILED, INFRASTRUCTURE.
v1::AttemptEnd BlameForExit(const TrainerExit& exit);

// CRASHED by a trainer that is not to be believed: `why` is half a sentence, "it named …".
v1::AttemptEnd BlameForLie(absl::string_view why, int64_t last_step);

// What a trainer said as it ended, cleaned: SUCCEEDED, PAUSED (only when `pause_asked`), FAILED and
// OUT_OF_MEMORY with a whole failure. Everything else is a lie.
v1::AttemptEnd EndAsSaid(const internal::Ended& ended, bool pause_asked, int64_t last_step);

// Times the kernel has ended a process for memory since boot (oom_kill in /proc/vmstat); 0 if it
// does not say.
int64_t KernelMemoryKills();

}  // namespace thaw
