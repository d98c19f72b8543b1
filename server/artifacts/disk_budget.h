// Disk space that is promised before it is needed, so that a transfer is refused at its beginning
// and not when the disk is full.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/mutex.h"

namespace thaw {

struct DiskBudgetOptions {
  // What the disk has free.
  std::function<absl::StatusOr<int64_t>()> free_bytes;
  // Kept for running jobs and the store.
  int64_t min_free_bytes = 0;
  // Of the room for uploads, what the unfinished ones of a single owner may hold, bytes that have
  // come and bytes that will: they keep it for as long as a day without sending a byte.
  double owner_share = 0.5;
};

// Thread-safe. Counts what this server has promised on one file system; outlives its reservations.
class DiskBudget {
 public:
  // Bytes promised to one upload; given back when it goes.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Reservation&& other) noexcept { *this = std::move(other); }
    Reservation& operator=(Reservation&& other) noexcept;
    ~Reservation() { GiveBack(); }
    // `bytes` of it are on disk now, so the file system itself counts them. They still count for
    // their owner's share.
    void Release(int64_t bytes);

   private:
    friend class DiskBudget;
    Reservation(DiskBudget* budget, std::string owner, int64_t bytes, int64_t of_owner)
        : budget_(budget), owner_(std::move(owner)), bytes_(bytes), of_owner_(of_owner) {}
    void GiveBack();
    DiskBudget* budget_ = nullptr;
    std::string owner_;
    int64_t bytes_ = 0;     // not on disk yet
    int64_t of_owner_ = 0;  // in all
  };

  // Who wants room.
  struct Claim {
    std::string owner = {};  // whose share counts; empty: nobody's
    // Bytes of the same upload that have come already: they take no more room, but of the share.
    int64_t on_disk = 0;
    // May use three quarters of min_free_bytes, or uploads could starve it.
    bool of_running_job = false;
    // Was admitted before a restart: counts for its owner's share, but is not refused for it.
    bool admitted = false;
  };

  explicit DiskBudget(DiskBudgetOptions options) : options_(std::move(options)) {}

  // RESOURCE_EXHAUSTED, reason DISK_FULL, when the disk cannot hold `bytes` besides what is
  // promised already; reason UPLOAD_QUOTA when it can, but not for this owner.
  absl::StatusOr<Reservation> Reserve(int64_t bytes, const Claim& claim);

  // RESOURCE_EXHAUSTED when less than what is kept is left: no new work then.
  absl::Status CheckNotShort() const;

  // From now on so much more is kept, for what running jobs are about to write.
  void KeepForCheckpoints(int64_t bytes);

  // Bytes free on the file system; 0 if that cannot be told.
  int64_t FreeOnDisk() const;

 private:
  const DiskBudgetOptions options_;
  mutable Mutex mutex_;
  int64_t kept_for_checkpoints_ THAW_GUARDED_BY(mutex_) = 0;
  int64_t promised_ THAW_GUARDED_BY(mutex_) = 0;
  std::map<std::string, int64_t> held_by_ THAW_GUARDED_BY(mutex_);  // by owner, none 0
};

}  // namespace thaw
