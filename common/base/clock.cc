#include "common/base/clock.h"

#include <ctime>

namespace thaw {
namespace {

int64_t ReadMicros(clockid_t id) {
  timespec now{};
  clock_gettime(id, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000 + now.tv_nsec / 1'000;
}

class SystemClock final : public Clock {
 public:
  int64_t WallMicros() const override { return ReadMicros(CLOCK_REALTIME); }
  int64_t BootMicros() const override { return ReadMicros(CLOCK_BOOTTIME); }
};

}  // namespace

const Clock& RealClock() {
  static const SystemClock clock;
  return clock;
}

}  // namespace thaw
