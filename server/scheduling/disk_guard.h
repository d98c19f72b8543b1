// Pauses running jobs before the server's disk is full, and lets them go on when there is room.
//
// Every job that runs is to find room for one more checkpoint above `pause_below`: the oldest
// first, and who finds none is paused, which writes that checkpoint. A paused job goes on once its
// checkpoint has room above `resume_above` beside those of the jobs that run. Nothing new starts
// while one waits for that and none is on its way back, nor from the moment when less than
// `pause_below` is free until it is `resume_above` again (below which no new work is accepted: see
// DiskBudget). A job whose checkpoint the disk could not take if it were alone keeps nobody else
// waiting. Why marks and no ballast file: docs/adr/0008-marks-for-a-short-disk.md.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <set>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "server/jobs/held_jobs.h"
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
  // `on_need` is told at every look of the bytes to keep for checkpoints: of the jobs that go on or
  // wait for room. All outlive it.
  DiskGuard(Store& store, Dispatcher& dispatcher, std::vector<GuardedDisk> disks,
            std::function<void(int64_t)> on_need, DiskGuardOptions options);
  ~DiskGuard();

  // The first look is over when it returns. Once, right after the dispatcher's.
  absl::Status Start();

  // One look and what follows from it. Blocks on the store.
  void Tick();

  // Whether nothing starts for want of room. Thread-safe.
  bool IsShort() const { return short_; }

 private:
  // Bytes above a mark on the fullest disk, and for checkpoints; all negative below the mark.
  struct Room {
    int64_t any = 0;
    int64_t checkpoints = 0;
  };
  struct Plan {
    std::set<int64_t> hold;
    std::set<int64_t> release;
    int64_t kept_bytes = 0;  // for checkpoints
    bool is_short = false;
  };
  void Loop();
  Room RoomAbove(int64_t mark) const;
  Plan MakePlan(const std::vector<DiskNeed>& needs) const;

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
