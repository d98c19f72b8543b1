#include "server/scheduling/disk_guard.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "common/base/log.h"
#include "common/base/status.h"
#include "server/jobs/held_jobs.h"

namespace thaw {
namespace {

constexpr char kNothingStarts[] =
    "the server's disk is short: nothing starts until artifacts that nobody needs are deleted or "
    "the operator gives it room";

}  // namespace

DiskGuard::DiskGuard(Store& store, Dispatcher& dispatcher, std::vector<GuardedDisk> disks,
                     std::function<void(int64_t)> on_need, DiskGuardOptions options)
    : store_(store),
      dispatcher_(dispatcher),
      disks_(std::move(disks)),
      on_need_(std::move(on_need)),
      options_(options) {}

DiskGuard::~DiskGuard() {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    stopped_changed_.SignalAll();
  }
  if (thread_.joinable()) thread_.join();
}

absl::Status DiskGuard::Start() {
  THAW_ASSIGN_OR_RETURN(const DiskNeed need,
                        store_.Read([](Reader& reader) { return GetDiskNeed(reader); }));
  short_ = need.jobs_held > 0;
  Tick();
  if (options_.run_thread) thread_ = std::thread([this] { Loop(); });
  return absl::OkStatus();
}

void DiskGuard::Loop() {
  while (true) {
    {
      MutexLock lock(mutex_);
      if (!stopped_) stopped_changed_.WaitFor(mutex_, options_.poll_seconds);
      if (stopped_) return;
    }
    Tick();
  }
}

int64_t DiskGuard::LeastRoom(int64_t mark, int64_t need) const {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const GuardedDisk& disk : disks_) {
    const absl::StatusOr<int64_t> free = disk.free_bytes();
    if (free.ok()) least = std::min(least, *free - mark - (disk.takes_checkpoints ? need : 0));
  }
  return least;
}

void DiskGuard::Tick() {
  const absl::StatusOr<DiskNeed> need =
      store_.Read([](Reader& reader) { return GetDiskNeed(reader); });
  if (!need.ok()) {
    THAW_LOG(kWarning, "disk_guard_failed", {"error", need.status().message()});
    return;
  }
  on_need_(need->checkpoint_bytes);
  if (!short_ && LeastRoom(options_.pause_below_bytes, need->checkpoint_bytes) < 0) {
    short_ = true;
    THAW_LOG(kWarning, "disk_short", {"jobs_paused", need->jobs_at_work},
             {"kept_for_checkpoints", need->checkpoint_bytes});
  } else if (short_ && LeastRoom(options_.resume_above_bytes, need->checkpoint_bytes) >= 0) {
    short_ = false;
    THAW_LOG(kInfo, "disk_has_room", {"jobs_resumed", need->jobs_held});
  }
  // Before the jobs are written: what begins after that would be missed.
  dispatcher_.SetHold(short_ ? kNothingStarts : "");
  absl::Status status;
  if (short_ && need->jobs_at_work > 0) {
    status = store_.Write([](Transaction& transaction) { return HoldJobs(transaction); });
  } else if (!short_ && need->jobs_held > 0) {
    status = store_.Write([](Transaction& transaction) { return ReleaseJobs(transaction); });
  }
  if (!status.ok()) THAW_LOG(kWarning, "disk_guard_failed", {"error", status.message()});
}

}  // namespace thaw
