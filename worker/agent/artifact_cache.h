// Inputs on this machine's disk, kept between attempts.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "thaw/v1/artifact.pb.h"

namespace thaw {

// Directories <root>/<digest>, each the files of one artifact; equal content is kept once. What an
// earlier process left is verified before its first use. Beyond the limit the longest unused ones
// go. Thread-safe; fetches of different artifacts wait for each other.
class ArtifactCache {
 public:
  // Brings the files of the artifact to the directory, keeping those that are there with the right
  // hash; checks all.
  using FetchFn = std::function<absl::Status(const v1::Artifact&, const std::string& directory)>;

  ArtifactCache(std::string root, int64_t limit_bytes)
      : root_(std::move(root)), limit_bytes_(limit_bytes) {}

  // While it lives the directory stays.
  class Pin {
   public:
    Pin() = default;
    Pin(ArtifactCache* cache, std::string digest, std::string directory)
        : cache_(cache), digest_(std::move(digest)), directory_(std::move(directory)) {}
    Pin(Pin&& other) noexcept { *this = std::move(other); }
    Pin& operator=(Pin&& other) noexcept;
    ~Pin() { Release(); }
    const std::string& directory() const { return directory_; }

   private:
    void Release();
    ArtifactCache* cache_ = nullptr;
    std::string digest_;
    std::string directory_;
  };

  // RESOURCE_EXHAUSTED when the disk has no room for it even with everything unused gone.
  absl::StatusOr<Pin> Get(const v1::Artifact& artifact, const FetchFn& fetch);

 private:
  struct Entry {
    int pins = 0;
    int64_t bytes = 0;
    int64_t last_used = 0;  // counts uses
    bool verified = false;
  };

  absl::Status MakeRoom(int64_t bytes) THAW_REQUIRES(mutex_);
  void ReadRoot() THAW_REQUIRES(mutex_);
  void Unpin(const std::string& digest);

  const std::string root_;
  const int64_t limit_bytes_;
  Mutex mutex_;
  std::map<std::string, Entry> entries_ THAW_GUARDED_BY(mutex_);
  int64_t uses_ THAW_GUARDED_BY(mutex_) = 0;
  bool root_read_ THAW_GUARDED_BY(mutex_) = false;
};

}  // namespace thaw
