#include "server/scheduling/disk_guard.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "common/base/log.h"
#include "common/base/status.h"

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
  THAW_ASSIGN_OR_RETURN(const std::vector<DiskNeed> needs,
                        store_.Read([](Reader& reader) { return GetDiskNeeds(reader); }));
  short_ = std::any_of(needs.begin(), needs.end(),
                       [](const DiskNeed& need) { return need.standing == DiskNeed::kHeld; });
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

DiskGuard::Room DiskGuard::RoomAbove(int64_t mark) const {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  Room room{kMost, kMost};
  for (const GuardedDisk& disk : disks_) {
    const absl::StatusOr<int64_t> free = disk.free_bytes();
    if (!free.ok()) continue;
    room.any = std::min(room.any, *free - mark);
    if (disk.takes_checkpoints) room.checkpoints = std::min(room.checkpoints, *free - mark);
  }
  if (room.any < 0) room.checkpoints = std::min(room.checkpoints, room.any);
  return room;
}

DiskGuard::Plan DiskGuard::MakePlan(const std::vector<DiskNeed>& needs) const {
  Plan plan;
  const Room above_pause = RoomAbove(options_.pause_below_bytes);
  const Room above_resume = RoomAbove(options_.resume_above_bytes);
  int64_t to_run = above_pause.checkpoints;
  int64_t to_go_on = above_resume.checkpoints;
  bool waits = false, comes_back = false;
  for (const DiskNeed& need : needs) {
    const int64_t bytes = need.checkpoint_bytes;
    const bool held = need.standing == DiskNeed::kHeld;
    if (bytes <= (held ? to_go_on : to_run)) {
      if (held) plan.release.insert(need.job);
      comes_back |= held || need.standing == DiskNeed::kQueued;
      to_run -= bytes;
      to_go_on -= bytes;
      plan.kept_bytes += bytes;
      continue;
    }
    if (need.standing == DiskNeed::kAtWork) plan.hold.insert(need.job);
    if (need.standing == DiskNeed::kQueued) continue;
    if (bytes > above_resume.checkpoints) continue;  // not even alone
    waits = true;
    plan.kept_bytes += bytes;
  }
  // Whoever comes back has to start, before the next one may.
  plan.is_short = above_pause.any < 0 || (waits && !comes_back) || (short_ && above_resume.any < 0);
  return plan;
}

void DiskGuard::Tick() {
  const absl::StatusOr<std::vector<DiskNeed>> needs =
      store_.Read([](Reader& reader) { return GetDiskNeeds(reader); });
  if (!needs.ok()) {
    THAW_LOG(kWarning, "disk_guard_failed", {"error", needs.status().message()});
    return;
  }
  const Plan plan = MakePlan(*needs);
  on_need_(plan.kept_bytes);
  if (!plan.hold.empty() || (plan.is_short && !short_)) {
    THAW_LOG(kWarning, "disk_short", {"jobs_paused", plan.hold.size()},
             {"kept_for_checkpoints", plan.kept_bytes});
  } else if (!plan.is_short && short_) {
    THAW_LOG(kInfo, "disk_has_room", {"jobs_resumed", plan.release.size()});
  }
  short_ = plan.is_short;
  // Before the jobs are written: what begins after that would be missed.
  dispatcher_.SetHold(short_ ? kNothingStarts : "");
  absl::Status status;
  if (!plan.hold.empty() || !plan.release.empty()) {
    status = store_.Write([&](Transaction& transaction) -> absl::Status {
      THAW_RETURN_IF_ERROR(HoldJobs(transaction, plan.hold));
      return ReleaseJobs(transaction, plan.release);
    });
  }
  if (!status.ok()) THAW_LOG(kWarning, "disk_guard_failed", {"error", status.message()});
}

}  // namespace thaw
