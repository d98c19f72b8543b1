// The only loops over threads. A body may run out of scratch memory: an exception must not leave
// an OpenMP region, so it is caught there and std::bad_alloc thrown again on the calling thread,
// once all threads are done; what the kernel wrote is then undefined. See simd.h for how this is
// included.
#pragma once

#include <new>

#include "worker/kernels/simd.h"

namespace thaw {
namespace {

// body(i) for i in [0, n): each thread has one range of equal length.
template <typename Body>
THAW_INLINE void ParallelFor(int64_t n, Body body) {
  bool out_of_memory = false;
#pragma omp parallel for schedule(static) firstprivate(body)
  for (int64_t i = 0; i < n; ++i) {
    try {
      body(i);
    } catch (const std::bad_alloc&) {
#pragma omp atomic write
      out_of_memory = true;
    }
  }
  if (out_of_memory) throw std::bad_alloc();
}

// The same for bodies of unequal cost: whoever is free takes the next.
template <typename Body>
THAW_INLINE void ParallelForUneven(int64_t n, Body body) {
  bool out_of_memory = false;
#pragma omp parallel for schedule(dynamic) firstprivate(body)
  for (int64_t i = 0; i < n; ++i) {
    try {
      body(i);
    } catch (const std::bad_alloc&) {
#pragma omp atomic write
      out_of_memory = true;
    }
  }
  if (out_of_memory) throw std::bad_alloc();
}

}  // namespace
}  // namespace thaw
