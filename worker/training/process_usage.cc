#include "worker/training/process_usage.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>

namespace thaw {

double CpuSeconds() {
  timespec used = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) + 1e-9 * static_cast<double>(used.tv_nsec);
}

int64_t PeakResidentBytes() {
  FILE* file = fopen("/proc/self/status", "re");
  if (file == nullptr) return 0;
  char line[256];
  long kilobytes = 0;
  while (fgets(line, sizeof(line), file) != nullptr) {
    if (sscanf(line, "VmHWM: %ld kB", &kilobytes) == 1) break;
  }
  fclose(file);
  return int64_t{kilobytes} << 10;
}

bool ForgetPeak() {
  const int file = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
  if (file < 0) return false;
  const bool forgotten = write(file, "5", 1) == 1;
  close(file);
  return forgotten;
}

}  // namespace thaw
