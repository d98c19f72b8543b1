#pragma once

#include <cstdint>

namespace thaw {

// After `count` bytes were written at `offset`: has the kernel begin to write out each 8 MiB that
// has become whole, so that an fsync at the end finds little left to do. A hint, which cannot fail.
void StartWriteback(int fd, int64_t offset, int64_t count);

}  // namespace thaw
