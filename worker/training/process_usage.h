// What this process has used so far, as the kernel counts it (proc(5)).
#pragma once

#include <cstdint>

namespace thaw {

// Of all threads since the process began, seconds.
double CpuSeconds();

// Most memory in RAM at a time since the process began or ForgetPeak succeeded, bytes; 0 if the
// kernel does not say.
int64_t PeakResidentBytes();

// From here on the peak is what is in RAM now. False where the kernel does not let us.
bool ForgetPeak();

}  // namespace thaw
