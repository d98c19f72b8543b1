#pragma once

#include <atomic>
#include <cstdint>

#include "common/base/clock.h"

namespace thaw {

// A clock that stands still until it is told to move. Thread-safe.
class FakeClock final : public Clock {
 public:
  int64_t WallMicros() const override { return wall_micros_; }
  int64_t BootMicros() const override { return boot_micros_; }

  void AdvanceSeconds(double seconds) {
    const auto micros = static_cast<int64_t>(seconds * 1e6);
    wall_micros_ += micros;
    boot_micros_ += micros;
  }
  // Only the wall clock, as when somebody sets it.
  void JumpWallSeconds(double seconds) { wall_micros_ += static_cast<int64_t>(seconds * 1e6); }

 private:
  std::atomic<int64_t> wall_micros_{1'760'000'000'000'000};
  std::atomic<int64_t> boot_micros_{1'000'000'000};
};

}  // namespace thaw
