#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "worker/kernels/kernels.h"
#include "worker/kernels/scratch.h"

namespace thaw {

const KernelTable& GenericKernels();
const KernelTable& Avx2Kernels();
const KernelTable& Avx512Kernels();
const KernelTable& AmxKernels();

namespace {

bool HasAvx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

// Asks the system for the tiles, too: without its leave they trap. It holds for all threads.
bool HasAmx() {
  static const bool found = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!HasAvx512() || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
    constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
    if ((d & kAmxBf16) == 0 || (d & kAmxTile) == 0) return false;
    constexpr unsigned kAvx512Bf16 = 1u << 5;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d) == 0 || (a & kAvx512Bf16) == 0) return false;
    constexpr int kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return found;
}

}  // namespace

const KernelTable* KernelsFor(InstructionSet set) {
  switch (set) {
    case InstructionSet::kGeneric:
      return &GenericKernels();
    case InstructionSet::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &Avx2Kernels()
                                                                             : nullptr;
    case InstructionSet::kAvx512:
      return HasAvx512() ? &Avx512Kernels() : nullptr;
    case InstructionSet::kAmx:
      return HasAmx() ? &AmxKernels() : nullptr;
  }
  return nullptr;
}

const KernelTable& Kernels() {
  static const KernelTable* const best = [] {
    for (InstructionSet set :
         {InstructionSet::kAmx, InstructionSet::kAvx512, InstructionSet::kAvx2}) {
      if (const KernelTable* table = KernelsFor(set)) return table;
    }
    return &GenericKernels();
  }();
  return *best;
}

namespace {

std::atomic<size_t> scratch_limit = 0;

class ScratchBuffer {
 public:
  float* AtLeast(size_t floats) {
    const size_t limit = scratch_limit.load(std::memory_order_relaxed);
    if (limit > 0 && floats > limit) throw std::bad_alloc();
    if (floats > size_) Grow(floats);
    return memory_.get();
  }

 private:
  void Grow(size_t floats) {
    memory_.reset();
    size_ = 0;
    if (floats > SIZE_MAX / sizeof(float) - 64) throw std::bad_alloc();
    const size_t bytes = (floats * sizeof(float) + 63) / 64 * 64;
    memory_.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    if (memory_ == nullptr) throw std::bad_alloc();
    size_ = bytes / sizeof(float);
  }

  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> memory_;
  size_t size_ = 0;
};

}  // namespace

float* ThreadScratch(size_t floats) {
  thread_local ScratchBuffer buffer;
  return buffer.AtLeast(floats);
}

float* SharedScratch(size_t floats) {
  thread_local ScratchBuffer buffer;
  return buffer.AtLeast(floats);
}

void LimitScratch(size_t floats) { scratch_limit = floats; }

}  // namespace thaw
