#include "server/artifacts/attempt_logs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "common/base/unique_fd.h"

namespace thaw {

AttemptLogs::AttemptLogs(std::string directory, int64_t limit)
    : directory_(std::move(directory)), limit_(limit) {}

std::string AttemptLogs::PathOf(const std::string& job, int attempt) const {
  return absl::StrCat(directory_, "/", job, "/", attempt, ".log");
}

absl::StatusOr<int64_t> AttemptLogs::Append(const std::string& job, int attempt, int64_t offset,
                                            absl::string_view bytes) {
  if (!IsSafeRelativePath(job)) return absl::InvalidArgumentError("job is no id");
  if (offset < 0) return absl::InvalidArgumentError("log_offset is negative");
  const int64_t sent = offset + static_cast<int64_t>(bytes.size());
  MutexLock lock(mutex_);
  const std::string path = PathOf(job, attempt);
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.valid() && errno == ENOENT && !bytes.empty()) {
    THAW_RETURN_IF_ERROR(MakeDirectories(absl::StrCat(directory_, "/", job)));
    fd = UniqueFd(open(path.c_str(), O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644));
  }
  if (!fd.valid()) {
    if (errno == ENOENT) return sent;
    return ErrnoStatus(errno, absl::StrCat("opening ", path));
  }
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, absl::StrCat("reading ", path));
  const int64_t size = info.st_size;
  if (offset >= limit_) return sent;
  if (sent <= size) return size;
  int64_t at = std::max(offset, size);
  bytes = bytes.substr(static_cast<size_t>(at - offset), static_cast<size_t>(limit_ - at));
  while (!bytes.empty()) {
    const ssize_t count = pwrite(fd.get(), bytes.data(), bytes.size(), at);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, absl::StrCat("writing ", path));
    at += count;
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  return sent;
}

absl::StatusOr<std::string> AttemptLogs::Read(const std::string& job, int attempt, int64_t offset,
                                              int64_t max_bytes) const {
  if (!IsSafeRelativePath(job)) return absl::InvalidArgumentError("job is no id");
  const std::string path = PathOf(job, attempt);
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.valid()) {
    if (errno == ENOENT) return std::string();
    return ErrnoStatus(errno, absl::StrCat("opening ", path));
  }
  std::string content(static_cast<size_t>(max_bytes), '\0');
  const ssize_t count = pread(fd.get(), content.data(), content.size(), offset);
  if (count < 0) return ErrnoStatus(errno, absl::StrCat("reading ", path));
  content.resize(static_cast<size_t>(count));
  return content;
}

}  // namespace thaw
