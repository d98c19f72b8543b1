#include "worker/trainer/process.h"

#include <sched.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <set>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"

namespace thaw {
namespace {

// cpu.max of control groups v2: "<quota> <period>" or "max <period>".
int QuotaCores() {
  const auto text = ReadFile("/sys/fs/cgroup/cpu.max");
  if (!text.ok()) return CPU_SETSIZE;
  std::istringstream words(*text);
  double quota = 0, period = 0;
  if (!(words >> quota >> period) || period <= 0) return CPU_SETSIZE;
  return std::max(1, static_cast<int>(std::ceil(quota / period)));
}

}  // namespace

void DieWithParent() { prctl(PR_SET_PDEATHSIG, SIGKILL); }

int UsableCores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 1;
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const auto siblings = ReadFile(
        absl::StrCat("/sys/devices/system/cpu/cpu", cpu, "/topology/thread_siblings_list"));
    cores.insert(siblings.ok() ? *siblings : absl::StrCat(cpu));
  }
  return std::clamp(static_cast<int>(cores.size()), 1, QuotaCores());
}

void EnsureShortSpinning(char** argv) {
  if (getenv("GOMP_SPINCOUNT") != nullptr || getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "1000", 1);
  // Without it, go on all the same: slower beside others, but right.
  execv("/proc/self/exe", argv);
}

}  // namespace thaw
