// Who holds which access token. Only hashes are kept in memory, and hashes are compared in constant
// time.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/mutex.h"

namespace thaw {

enum class Role {
  kAdmin,   // sees and does everything but a worker's part
  kOwner,   // its own jobs and artifacts
  kWorker,  // Sync, and what its live attempts read and write
};

struct Identity {
  Role role = Role::kOwner;
  std::string name;  // owner of what it makes; "admin", "worker"
};

// Thread-safe.
class AccessTokens {
 public:
  // data_dir/access_token (an admin's) and data_dir/worker_token hold a token each; they are
  // written with fresh ones if they are not there, and refused if they are another user's or others
  // than their owner may read them. `owners_file` may be empty; its lines are "owner:sha256 of the
  // token in hex", blank, or comments that begin with '#'.
  static absl::StatusOr<std::unique_ptr<AccessTokens>> Load(const std::string& data_dir,
                                                            const std::string& owners_file);

  // Reads the files again; keeps what it had if that fails.
  absl::Status Reload();

  std::optional<Identity> Identify(absl::string_view token) const;

 private:
  struct Entry {
    std::string sha256;
    Identity identity;
  };
  AccessTokens(std::string data_dir, std::string owners_file);
  absl::StatusOr<std::vector<Entry>> ReadFiles() const;

  const std::string data_dir_;
  const std::string owners_file_;
  mutable Mutex mutex_;
  std::vector<Entry> entries_ THAW_GUARDED_BY(mutex_);
};

// Names of owners: a letter or digit, then up to 62 of [a-z0-9._-].
bool IsOwnerName(absl::string_view name);

}  // namespace thaw
