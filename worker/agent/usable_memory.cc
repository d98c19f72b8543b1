#include "worker/agent/usable_memory.h"

#include <unistd.h>

#include <algorithm>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/files.h"

namespace thaw {
namespace {

// The number in `file`; the largest where there is none, as without a limit ("max").
int64_t LimitIn(const std::string& file) {
  int64_t bytes = 0;
  const auto text = ReadFile(file);
  const bool limited = text.ok() && absl::SimpleAtoi(*text, &bytes) && bytes > 0;
  return limited ? bytes : std::numeric_limits<int64_t>::max();
}

// The least limit of `group` below `mount` and of all around it. A container may see the path that
// the host gave it, but only its own group, as the mount itself.
int64_t LeastLimit(const std::string& mount, std::string group, const char* file) {
  int64_t least = std::numeric_limits<int64_t>::max();
  while (true) {
    least = std::min(least, LimitIn(absl::StrCat(mount, group, "/", file)));
    if (group.empty()) return least;
    group.resize(group.rfind('/'));
  }
}

}  // namespace

int64_t UsableMemoryBytes(const std::string& root) {
  int64_t least = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  const std::string mount = root + "/sys/fs/cgroup";
  std::string own = "/", own_memory = "/";  // of versions 2 and 1
  if (const auto groups = ReadFile(root + "/proc/self/cgroup"); groups.ok()) {
    for (const absl::string_view line : absl::StrSplit(*groups, '\n')) {
      // "<number>:<controllers>:<path>"; version 2 names no controllers.
      const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
      if (parts.size() < 3 || parts[2].empty() || parts[2][0] != '/') continue;
      if (parts[1].empty()) own = parts[2];
      const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
      if (std::find(controllers.begin(), controllers.end(), "memory") != controllers.end()) {
        own_memory = parts[2];
      }
    }
  }
  least = std::min(least, LeastLimit(mount, own, "memory.max"));
  return std::min(least, LeastLimit(mount + "/memory", own_memory, "memory.limit_in_bytes"));
}

}  // namespace thaw
