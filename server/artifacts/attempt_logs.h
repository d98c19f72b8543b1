// What trainers wrote to their standard output and error, one file per attempt.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/mutex.h"

namespace thaw {

// Thread-safe. <directory>/<job>/<attempt>.log holds the first `limit` bytes of an attempt's
// output; what comes after is dropped. Not fsynced: a log is help, not a promise.
class AttemptLogs {
 public:
  explicit AttemptLogs(std::string directory, int64_t limit = int64_t{8} << 20);

  // Takes the bytes from `offset` on as far as they are new and below the limit, and gives the
  // offset to go on from. A gap, which only a power cut can leave, reads as NUL bytes.
  absl::StatusOr<int64_t> Append(const std::string& job, int attempt, int64_t offset,
                                 absl::string_view bytes);

  // At most `max_bytes` from `offset` on; empty at the end and for an attempt without a log.
  absl::StatusOr<std::string> Read(const std::string& job, int attempt, int64_t offset,
                                   int64_t max_bytes) const;

 private:
  std::string PathOf(const std::string& job, int attempt) const;

  const std::string directory_;
  const int64_t limit_;
  mutable Mutex mutex_;  // serializes appends, so that two Syncs of one attempt cannot interleave
};

}  // namespace thaw
