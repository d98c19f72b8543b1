#include "worker/trainer/process.h"

#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <sstream>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"

namespace thaw {
namespace {

constexpr struct {
  const char* name;
  const char* value;
} kEnvironment[] = {
    // With libgomp's default, threads that wait for a busy neighbour burn whole cores.
    {"GOMP_SPINCOUNT", "1000"},
    // Packed rows give nearly every step a matrix shape of its own. oneDNN and LibTorch's layer
    // above it would keep what they made for the last 1024 shapes, half a megabyte each: as much as
    // the model itself, for shapes that hardly come again.
    {"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64"},
    {"LRU_CACHE_CAPACITY", "64"}};

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

void KeepFreedMemory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  mallopt(M_TOP_PAD, 64 << 20);
}

void ReturnFreedMemory() { malloc_trim(0); }

absl::Status MoveTo(const std::string& work_dir, const std::string& log_file) {
  const int log =
      open(log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (log < 0) return ErrnoStatus(errno, absl::StrCat("opening ", log_file));
  const bool moved = dup2(log, STDOUT_FILENO) >= 0 && dup2(log, STDERR_FILENO) >= 0 &&
                     chdir(work_dir.c_str()) == 0;
  const absl::Status status =
      moved ? absl::OkStatus() : ErrnoStatus(errno, absl::StrCat("moving to ", work_dir));
  close(log);
  for (const char* name : {"HOME", "TMPDIR"}) setenv(name, work_dir.c_str(), 1);
  return status;
}

void EnsureEnvironment(char** argv) {
  bool complete = true;
  for (const auto& [name, value] : kEnvironment) {
    if (getenv(name) != nullptr) continue;
    complete = false;
    setenv(name, value, 1);
  }
  if (complete) return;
  // By its path, so that it keeps its name in the process list. If that fails, go on all the same:
  // slower and larger, but right.
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) execv(program.c_str(), argv);
}

}  // namespace thaw
