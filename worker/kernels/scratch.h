#pragma once

#include <cstddef>

namespace thaw {

// At least `floats` floats of the calling thread's own, 64-byte aligned, valid until its next call.
// Contents are undefined. Throws std::bad_alloc.
float* ThreadScratch(size_t floats);
// The same from a second buffer: what one call of a kernel shares among its threads.
float* SharedScratch(size_t floats);

// From now on more than `floats` floats are refused, as if memory had run out; 0: no limit. For
// tests of just that.
void LimitScratch(size_t floats);

}  // namespace thaw
