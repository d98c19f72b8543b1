#include "worker/agent/artifact_cache.h"

#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace thaw {
namespace {

// Left free for whatever else the machine does.
constexpr int64_t kReserveBytes = int64_t{512} << 20;

bool IsDigest(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

ArtifactCache::Pin& ArtifactCache::Pin::operator=(Pin&& other) noexcept {
  if (this != &other) {
    Release();
    cache_ = std::exchange(other.cache_, nullptr);
    digest_ = std::move(other.digest_);
    directory_ = std::move(other.directory_);
  }
  return *this;
}

void ArtifactCache::Pin::Release() {
  if (cache_ != nullptr) std::exchange(cache_, nullptr)->Unpin(digest_);
}

void ArtifactCache::Unpin(const std::string& digest) {
  MutexLock lock(mutex_);
  --entries_[digest].pins;
}

// What an earlier process left counts as the longest unused.
void ArtifactCache::ReadRoot() {
  if (std::exchange(root_read_, true)) return;
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(root_, error)) {
    const std::string name = item.path().filename().string();
    const auto files = ListFiles(item.path().string());
    if (!IsDigest(name) || !files.ok()) {
      RemoveTree(item.path().string()).IgnoreError();
      continue;
    }
    Entry& entry = entries_[name];
    for (const FileEntry& file : *files) entry.bytes += file.size;
  }
}

absl::Status ArtifactCache::MakeRoom(int64_t bytes) {
  while (true) {
    int64_t held = 0;
    auto oldest = entries_.end();
    for (auto it = entries_.begin(); it != entries_.end(); ++it) {
      held += it->second.bytes;
      if (it->second.pins == 0 &&
          (oldest == entries_.end() || it->second.last_used < oldest->second.last_used))
        oldest = it;
    }
    THAW_ASSIGN_OR_RETURN(const int64_t free, FreeBytes(root_));
    const bool disk_short = free < bytes + kReserveBytes;
    if (!disk_short && held + bytes <= limit_bytes_) return absl::OkStatus();
    if (oldest == entries_.end()) {
      // A job that is alone too large for the limit may still run; one that the disk cannot hold
      // may not.
      if (!disk_short) return absl::OkStatus();
      return absl::ResourceExhaustedError(absl::StrCat("the worker's disk has ", free,
                                                       " bytes free and needs ",
                                                       bytes + kReserveBytes, " for an input"));
    }
    THAW_LOG(kInfo, "cache_evicted", {"digest", oldest->first}, {"bytes", oldest->second.bytes});
    THAW_RETURN_IF_ERROR(RemoveTree(absl::StrCat(root_, "/", oldest->first)));
    entries_.erase(oldest);
  }
}

absl::StatusOr<ArtifactCache::Pin> ArtifactCache::Get(const v1::Artifact& artifact,
                                                      const FetchFn& fetch) {
  if (!IsDigest(artifact.digest()))
    return absl::InternalError(absl::StrCat("artifact ", artifact.id(), " has no digest"));
  MutexLock lock(mutex_);
  THAW_RETURN_IF_ERROR(MakeDirectories(root_, 0700));
  ReadRoot();
  const std::string directory = absl::StrCat(root_, "/", artifact.digest());
  const auto found = entries_.find(artifact.digest());
  if (found == entries_.end() || !found->second.verified) {
    if (found == entries_.end()) THAW_RETURN_IF_ERROR(MakeRoom(artifact.size_bytes()));
    // An interrupted fetch leaves the directory without an entry that is verified, so it is checked
    // and completed here.
    Entry& entry = entries_[artifact.digest()];
    entry.bytes = artifact.size_bytes();
    THAW_RETURN_IF_ERROR(fetch(artifact, directory));
    entry.verified = true;
  }
  Entry& entry = entries_[artifact.digest()];
  ++entry.pins;
  entry.last_used = ++uses_;
  return Pin(this, artifact.digest(), directory);
}

}  // namespace thaw
