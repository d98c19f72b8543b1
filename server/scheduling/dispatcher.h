// The server half of Sync, without gRPC: leases, offers, verdicts, acknowledgements.
//
// Promises:
// - an attempt is in the store before it is offered, accepted when a worker first reports it; only
// an accepted
//   one can be missing from a report, and not from a report that was sent before it was accepted;
// - a Sync is answered only after what it reported is committed;
// - requests older than one already seen, and those of an incarnation that another has followed,
// are refused;
// - a job is given to another worker only after lease + grace; a restarted server waits that long
// before it
//   calls anyone lost, and a lost attempt that nothing has replaced may come back.
//
// Threads: every function is thread-safe and none blocks on the disk (Start does). Decisions are
// made in Tick, on the dispatcher's own thread (which sleeps until something happens or a deadline
// comes) or, with `run_thread` off, by whoever drives the clock. `done` runs on the caller's
// thread, on that thread or on the thread that commits, without a lock held, exactly once; it must
// only enqueue.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "server/jobs/store.h"
#include "thaw/v1/job.pb.h"
#include "thaw/v1/worker_service.pb.h"

namespace thaw {

struct DispatcherOptions {
  // How long a worker that is not heard of keeps its attempts.
  double lease_seconds = 90;
  // Added before its jobs go to others, for clocks and messages on their way.
  double grace_seconds = 30;
  // How long an idle worker's Sync is held back; at most a third of the lease. Below every proxy's
  // idle timeout.
  double idle_hang_seconds = 20;
  // Between the Syncs of a busy worker; grows with the live attempts, by a second per
  // `attempts_per_second`.
  double busy_interval_seconds = 1;
  double max_interval_seconds = 10;
  int attempts_per_second = 500;
  // An offer that its worker has not come to fetch is taken back after this.
  double offer_timeout_seconds = 5;
  // Workers without attempts that have been silent for so long are forgotten.
  double forget_worker_seconds = 86400;
  // Between passes that thin old metric points.
  double thin_metrics_seconds = 3600;
  // Hooks for metrics, called with a lock held; must be quick. How long a run of the scheduler
  // took, and how long after its arrival what a Sync reported was committed.
  std::function<void(double)> on_schedule_seconds;
  std::function<void(double)> on_sync_commit_seconds;
  // Off: no thread; the owner calls Tick.
  bool run_thread = true;
};

struct DispatcherStats {
  int64_t workers_connected = 0;
  int64_t workers_draining = 0;
  int64_t queued = 0;
  double oldest_wait_seconds = 0;  // of the queued jobs
  int64_t live_attempts = 0;
  int64_t leases_lost = 0;  // workers whose lease ran out with attempts, since start
  int64_t stale_reports =
      0;  // attempts that were told FORGET because they are not the live ones, since start
  int64_t held_syncs = 0;
};

class Dispatcher {
 public:
  using SyncDone = std::function<void(absl::StatusOr<v1::SyncResponse>)>;

  // `store` and `clock` must outlive it.
  Dispatcher(Store& store, const Clock& clock, DispatcherOptions options);
  // Stops.
  ~Dispatcher();

  // Reads what the store knows (blocking) and begins. Once.
  absl::Status Start();
  // Answers every held Sync with UNAVAILABLE and refuses later ones. Waits for its thread. Again:
  // nothing.
  void Stop();

  // One Sync. INVALID_ARGUMENT for a malformed request; ABORTED with reason SYNC_OUTDATED for an
  // old number or a repeated one that a newer call has replaced; FAILED_PRECONDITION with reason
  // WORKER_REPLACED for a retired incarnation. Returns a ticket for CancelSync.
  uint64_t Sync(const v1::SyncRequest& request, SyncDone done);
  // The caller is gone: `done` gets CANCELLED if it has not run yet.
  void CancelSync(uint64_t ticket);

  // By name.
  std::vector<v1::WorkerStatus> ListWorkers() const;
  // No new work; its attempts are handed back. Holds until that name comes back as another process.
  // NOT_FOUND for an unknown name.
  absl::StatusOr<v1::WorkerStatus> DrainWorker(const std::string& name);

  // While `reason` is not empty, no job is given to a worker; it is what queued ones wait for.
  void SetHold(const std::string& reason);

  // Of a QUEUED job: queue_position, and what it waits for as state_reason, as they were a moment
  // ago where thousands wait. Others are left alone.
  void FillQueue(v1::Job* job) const;

  DispatcherStats Stats() const;

  // Does what is due: expires leases, schedules, answers Syncs that are held.
  void Tick();
  // BootMicros of the next deadline that Tick must not miss.
  int64_t NextDeadline() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thaw
