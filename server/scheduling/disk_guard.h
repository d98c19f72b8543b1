// Pauses running jobs before the server's disk is full, and lets them go on when there is room.
//
// Below `pause_below` every job that a worker has is paused, which writes its checkpoint, and
// nothing starts; from `resume_above` on they go on (below it no new work is accepted: see
// DiskBudget). Both marks are raised by what one more checkpoint of each takes, so that there is
// room when they are written. Why marks and no ballast file:
// docs/adr/0008-marks-for-a-short-disk.md.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "server/jobs/store.h"
#include "server/scheduling/dispatcher.h"

namespace thaw {

struct DiskGuardOptions {
  int64_t pause_below_bytes = int64_t{1} << 29;
  int64_t resume_above_bytes = int64_t{1} << 30;  // at least pause_below_bytes
  // A disk fills by a few hundred MB a second at most.
  double poll_seconds = 1;
  // Off: no thread; the owner calls Tick.
  bool run_thread = true;
};

// A file system that the server writes to.
struct GuardedDisk {
  std::function<absl::StatusOr<int64_t>()> free_bytes;  // one that cannot be asked is left out
  bool takes_checkpoints = false;
};

// Remembers nothing: after a restart the jobs that are held say that the disk was short.
class DiskGuard {
 public:
  // `on_need` is told of the bytes to keep for checkpoints, at every look. All outlive it.
  DiskGuard(Store& store, Dispatcher& dispatcher, std::vector<GuardedDisk> disks,
            std::function<void(int64_t)> on_need, DiskGuardOptions options);
  ~DiskGuard();

  // The first look is over when it returns. Once, right after the dispatcher's.
  absl::Status Start();

  // One look and what follows from it. Blocks on the store.
  void Tick();

  // Whether jobs are paused for want of room. Thread-safe.
  bool IsShort() const { return short_; }

 private:
  void Loop();
  // The disk with the least room above `mark`: by how much, negative if below.
  int64_t LeastRoom(int64_t mark, int64_t need) const;

  Store& store_;
  Dispatcher& dispatcher_;
  const std::vector<GuardedDisk> disks_;
  const std::function<void(int64_t)> on_need_;
  const DiskGuardOptions options_;
  std::atomic<bool> short_{false};

  Mutex mutex_;
  CondVar stopped_changed_;
  bool stopped_ THAW_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace thaw
