// Time as an argument: tests pass a FakeClock (tests/testing/fake_clock.h).
#pragma once

#include <cstdint>

namespace thaw {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Microseconds since 1970, for people to read. May jump.
  virtual int64_t WallMicros() const = 0;
  // Microseconds since an arbitrary start, counting time asleep (CLOCK_BOOTTIME). Leases and waits
  // use this one.
  virtual int64_t BootMicros() const = 0;
};

// The machine's own clocks; lives for ever.
const Clock& RealClock();

}  // namespace thaw
