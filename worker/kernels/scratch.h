#pragma once

#include <cstddef>

namespace thaw {

// At least `floats` floats of the calling thread's own, 64-byte aligned, valid until its next call.
// Contents are undefined.
float* ThreadScratch(size_t floats);

}  // namespace thaw
