// What a trainer asks of the operating system for itself.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace thaw {

// Ends this process with the thread that started it.
void DieWithParent();

// Physical cores that this process may run on, no more than its control group's CPU quota allows;
// at least 1. Two threads on one core's siblings only get in each other's way in GEMMs.
int UsableCores();

// Keeps freed memory for the next step instead of giving it back page by page: 6 to 8 % more tokens
// per CPU-second for about 30 MB.
void KeepFreedMemory();

// Gives the system back what KeepFreedMemory has kept: for a process that waits.
void ReturnFreedMemory();

// Goes over to another attempt: works in `work_dir` and appends its output to `log_file`. On
// failure it may have moved in part: the process is of no use to that attempt.
absl::Status MoveTo(const std::string& work_dir, const std::string& log_file);

// Starts this program anew with what the compute libraries read from the environment before main:
// short spinning of waiting threads, small caches of matrix shapes. Variables that are set already
// are left alone. Returns if there is nothing to do.
void EnsureEnvironment(char** argv);

}  // namespace thaw
