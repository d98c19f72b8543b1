// Disk space that is promised before it is needed, so that a transfer is refused at its beginning
// and not when the disk is full.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "common/base/mutex.h"

namespace thaw {

// Thread-safe. Counts what this server has promised on one file system; outlives its reservations.
class DiskBudget {
 public:
  // Bytes promised to one upload; given back when it goes.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Reservation&& other) noexcept
        : budget_(std::exchange(other.budget_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    Reservation& operator=(Reservation&& other) noexcept;
    ~Reservation() { Release(bytes_); }
    // `bytes` of it are on disk now, so the file system itself counts them.
    void Release(int64_t bytes);

   private:
    friend class DiskBudget;
    Reservation(DiskBudget* budget, int64_t bytes) : budget_(budget), bytes_(bytes) {}
    DiskBudget* budget_ = nullptr;
    int64_t bytes_ = 0;
  };

  // `min_free_bytes` of the file system that holds `path` are kept for running jobs.
  DiskBudget(std::string path, int64_t min_free_bytes)
      : path_(std::move(path)), min_free_bytes_(min_free_bytes) {}

  // RESOURCE_EXHAUSTED when the disk cannot hold `bytes` besides what is promised already. What a
  // running job leaves may use three quarters of min_free_bytes, or uploads could starve it.
  absl::StatusOr<Reservation> Reserve(int64_t bytes, bool of_running_job = false);

  // RESOURCE_EXHAUSTED when less than min_free_bytes is left: no new work then.
  absl::Status CheckNotShort() const;

  // Bytes free on the file system; 0 if that cannot be told.
  int64_t FreeOnDisk() const;

 private:
  const std::string path_;
  const int64_t min_free_bytes_;
  mutable Mutex mutex_;
  int64_t promised_ THAW_GUARDED_BY(mutex_) = 0;
};

}  // namespace thaw
