#include <cstdlib>
#include <memory>
#include <new>

#include "worker/kernels/kernels.h"
#include "worker/kernels/scratch.h"

namespace thaw {

const KernelTable& GenericKernels();
const KernelTable& Avx2Kernels();
const KernelTable& Avx512Kernels();

const KernelTable* KernelsFor(InstructionSet set) {
  switch (set) {
    case InstructionSet::kGeneric:
      return &GenericKernels();
    case InstructionSet::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &Avx2Kernels()
                                                                             : nullptr;
    case InstructionSet::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
                 ? &Avx512Kernels()
                 : nullptr;
  }
  return nullptr;
}

const KernelTable& Kernels() {
  static const KernelTable* const best = [] {
    for (InstructionSet set : {InstructionSet::kAvx512, InstructionSet::kAvx2}) {
      if (const KernelTable* table = KernelsFor(set)) return table;
    }
    return &GenericKernels();
  }();
  return *best;
}

float* ThreadScratch(size_t floats) {
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<float, Free> buffer;
  thread_local size_t size = 0;
  if (floats > size) {
    const size_t bytes = (floats * sizeof(float) + 63) / 64 * 64;
    buffer.reset();
    size = 0;
    buffer.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    if (buffer == nullptr) throw std::bad_alloc();
    size = bytes / sizeof(float);
  }
  return buffer.get();
}

}  // namespace thaw
