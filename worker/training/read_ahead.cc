#include "worker/training/read_ahead.h"

#include <fcntl.h>

#include <cstdint>
#include <utility>

#include "absl/strings/match.h"
#include "common/base/files.h"
#include "common/base/unique_fd.h"

namespace thaw {
namespace {

// The kernel's own window: a disk reads more at a call only where it is set up to, and forgets the
// rest without a word.
constexpr int64_t kReadAheadBytes = int64_t{128} << 10;

void ReadWeights(const std::stop_token& stop, const std::string& directory) {
  const auto files = ListFiles(directory);
  if (!files.ok()) return;
  for (const FileEntry& file : *files) {
    if (!absl::EndsWith(file.path, ".safetensors")) continue;
    const UniqueFd fd(open((directory + "/" + file.path).c_str(), O_RDONLY | O_CLOEXEC));
    for (int64_t at = 0; fd.valid() && at < file.size; at += kReadAheadBytes) {
      if (stop.stop_requested()) return;
      readahead(fd.get(), at, static_cast<size_t>(kReadAheadBytes));
    }
  }
}

}  // namespace

ReadAhead::ReadAhead(std::string directory)
    : thread_([directory = std::move(directory)](const std::stop_token& stop) {
        ReadWeights(stop, directory);
      }) {}

}  // namespace thaw
