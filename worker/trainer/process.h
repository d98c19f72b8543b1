// What a trainer asks of the operating system for itself.
#pragma once

#include <cstdint>

namespace thaw {

// Ends this process with the thread that started it.
void DieWithParent();

// Physical cores that this process may run on, no more than its control group's CPU quota allows;
// at least 1. Two threads on one core's siblings only get in each other's way in GEMMs.
int UsableCores();

// Starts this program anew with GOMP_SPINCOUNT=1000 unless the environment has an opinion: libgomp
// reads it before main, and with its default threads that wait for a busy neighbour burn whole
// cores. Returns if there is nothing to do.
void EnsureShortSpinning(char** argv);

}  // namespace thaw
