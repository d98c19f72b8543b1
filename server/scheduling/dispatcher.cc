#include "server/scheduling/dispatcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "server/jobs/attempt_table.h"
#include "server/jobs/job_table.h"
#include "server/jobs/worker_table.h"
#include "server/scheduling/dispatcher_state.h"
#include "server/scheduling/sync_request.h"

namespace thaw {
namespace {

template <typename Actions>
void RunActions(const Actions& actions) {
  for (const auto& action : actions) action();
}

// A held Sync is no sign of life: the next one must come while the lease stands.
DispatcherOptions WithHangWithinLease(DispatcherOptions options) {
  options.idle_hang_seconds = std::min(options.idle_hang_seconds, options.lease_seconds / 3);
  return options;
}

}  // namespace

Dispatcher::Dispatcher(Store& store, const Clock& clock, DispatcherOptions options)
    : impl_(std::make_unique<Impl>(store, clock, options)) {}
Dispatcher::~Dispatcher() = default;
absl::Status Dispatcher::Start() { return impl_->Start(); }
void Dispatcher::Stop() { impl_->Stop(); }
uint64_t Dispatcher::Sync(const v1::SyncRequest& request, SyncDone done) {
  return impl_->Sync(request, std::move(done));
}
void Dispatcher::CancelSync(uint64_t ticket) { impl_->CancelSync(ticket); }
std::vector<v1::WorkerStatus> Dispatcher::ListWorkers() const { return impl_->ListWorkers(); }
absl::StatusOr<v1::WorkerStatus> Dispatcher::DrainWorker(const std::string& name) {
  return impl_->DrainWorker(name);
}
void Dispatcher::SetHold(const std::string& reason) { impl_->SetHold(reason); }
void Dispatcher::FillQueue(v1::Job* job) const { impl_->FillQueue(job); }
DispatcherStats Dispatcher::Stats() const { return impl_->Stats(); }
void Dispatcher::Tick() { impl_->Tick(); }
int64_t Dispatcher::NextDeadline() const { return impl_->NextDeadline(); }

Dispatcher::Impl::Impl(Store& store, const Clock& clock, DispatcherOptions options)
    : store_(store), clock_(clock), options_(WithHangWithinLease(options)) {}

Dispatcher::Impl::~Impl() { Stop(); }

absl::Status Dispatcher::Impl::Start() {
  struct Snapshot {
    std::vector<WorkerRecord> workers;
    std::vector<JobView> jobs;
    std::vector<AttemptRecord> attempts;
    std::map<std::string, v1::Assignment> assignments;
  };
  const absl::StatusOr<Snapshot> snapshot =
      store_.Read([](Reader& reader) -> absl::StatusOr<Snapshot> {
        Snapshot all;
        THAW_ASSIGN_OR_RETURN(all.workers, AllWorkers(reader));
        THAW_ASSIGN_OR_RETURN(all.jobs, UnfinishedJobs(reader));
        THAW_ASSIGN_OR_RETURN(all.attempts, LiveAttempts(reader));
        for (const AttemptRecord& attempt : all.attempts) {
          if (attempt.state != AttemptState::kOffered) continue;
          THAW_ASSIGN_OR_RETURN(all.assignments[attempt.id], BuildAssignment(reader, attempt.id));
        }
        return all;
      });
  THAW_RETURN_IF_ERROR(snapshot.status());
  {
    MutexLock lock(mutex_);
    const int64_t now = clock_.BootMicros();
    use_decayed_ = next_thinning_ = now;
    for (const WorkerRecord& record : snapshot->workers) {
      Worker& worker = workers_[record.name];
      worker.record = record;
      worker.last_sync = now;
    }
    OnJobsChanged(snapshot->jobs);
    for (const AttemptRecord& attempt : snapshot->attempts) {
      Live& live = live_.at(attempt.id);
      live.accepted = attempt.state == AttemptState::kAccepted;
      live.accepted_number = attempt.accepted_number;
      live.acknowledged = attempt.acknowledged;
      live.incarnation = attempt.incarnation;
      if (live.accepted) continue;
      // It may have been sent just before the restart.
      live.sent = true;
      live.incarnation = workers_[attempt.worker].record.incarnation;
      live.assignment = snapshot->assignments.at(attempt.id);
    }
    started_ = true;
  }
  subscription_ = store_.ObserveJobs([this](const std::vector<JobView>& views) {
    MutexLock lock(mutex_);
    OnJobsChanged(views);
    Wake();
  });
  if (options_.run_thread) thread_ = std::thread([this] { Loop(); });
  return absl::OkStatus();
}

void Dispatcher::Impl::Stop() {
  Actions actions;
  {
    MutexLock lock(mutex_);
    if (stopped_) return;
    stopped_ = true;
    for (auto& [ticket, call] : calls_) {
      actions.push_back([done = std::move(call.done)] {
        done(absl::UnavailableError("the server stops: try again"));
      });
    }
    calls_.clear();
    Wake();
  }
  RunActions(actions);
  if (thread_.joinable()) thread_.join();
  subscription_.Reset();
  // Writes on their way still name this object.
  store_.Flush();
}

void Dispatcher::Impl::Loop() {
  while (true) {
    {
      MutexLock lock(mutex_);
      while (!wake_ && !stopped_) {
        const int64_t left = deadline_ - clock_.BootMicros();
        if (left <= 0) break;
        woken_.WaitFor(mutex_, static_cast<double>(left) / 1e6);
      }
      if (stopped_) return;
      wake_ = false;
    }
    Tick();
  }
}

void Dispatcher::Impl::Wake() {
  wake_ = true;
  woken_.Signal();
}

uint64_t Dispatcher::Impl::Sync(const v1::SyncRequest& request, SyncDone done) {
  const Arrival arrived = std::chrono::steady_clock::now();
  if (absl::Status status = CheckSyncRequest(request); !status.ok()) {
    done(status);
    return 0;
  }
  Actions actions;
  uint64_t ticket = 0;
  {
    MutexLock lock(mutex_);
    if (!started_ || stopped_) {
      actions.push_back([&] { done(absl::UnavailableError("the server stops: try again")); });
    } else {
      ticket = Admit(request, arrived, std::move(done), &actions);
      Wake();
    }
  }
  RunActions(actions);
  return ticket;
}

void Dispatcher::Impl::CancelSync(uint64_t ticket) {
  SyncDone done;
  {
    MutexLock lock(mutex_);
    const auto found = calls_.find(ticket);
    if (found == calls_.end()) return;
    done = std::move(found->second.done);
    const auto worker = workers_.find(found->second.worker);
    if (worker != workers_.end() && worker->second.call == ticket) worker->second.call = 0;
    calls_.erase(found);
  }
  done(absl::CancelledError("the caller is gone"));
}

v1::WorkerStatus Dispatcher::Impl::StatusOf(const Worker& worker) const {
  v1::WorkerStatus status;
  status.set_worker(worker.record.name);
  *status.mutable_offer() = worker.record.offer;
  const int64_t lease = static_cast<int64_t>(options_.lease_seconds * 1e6);
  status.set_connected(worker.seen && clock_.BootMicros() < worker.last_sync + lease);
  status.set_draining(worker.draining());
  for (const std::string& attempt : worker.attempts) status.add_jobs(live_.at(attempt).job);
  std::sort(status.mutable_jobs()->begin(), status.mutable_jobs()->end());
  status.mutable_last_sync_time()->set_seconds(worker.record.seen_micros / 1'000'000);
  status.mutable_last_sync_time()->set_nanos(
      static_cast<int32_t>(worker.record.seen_micros % 1'000'000) * 1'000);
  return status;
}

std::vector<v1::WorkerStatus> Dispatcher::Impl::ListWorkers() const {
  MutexLock lock(mutex_);
  std::vector<v1::WorkerStatus> all;
  for (const auto& [name, worker] : workers_) all.push_back(StatusOf(worker));
  return all;
}

absl::StatusOr<v1::WorkerStatus> Dispatcher::Impl::DrainWorker(const std::string& name) {
  MutexLock lock(mutex_);
  const auto found = workers_.find(name);
  if (found == workers_.end()) {
    return absl::NotFoundError(absl::StrCat("there is no worker \"", name, "\""));
  }
  Worker& worker = found->second;
  worker.record.draining = true;
  Consider(worker);
  Write(
      0, [record = worker.record](Transaction& t) { return PutWorker(t, record); },
      [](const absl::Status&) {});
  Changed();
  Wake();
  return StatusOf(worker);
}

void Dispatcher::Impl::SetHold(const std::string& reason) {
  MutexLock lock(mutex_);
  if (hold_ == reason) return;
  hold_ = reason;
  Changed();
  Wake();
}

void Dispatcher::Impl::FillQueue(v1::Job* job) const {
  if (job->state() != v1::Job::QUEUED) return;
  MutexLock lock(mutex_);
  const auto given = given_.find(job->id());
  if (given != given_.end()) {
    job->set_queue_position(1);
    job->set_state_reason(absl::StrCat("is being given to worker ", given->second.worker));
    return;
  }
  const int64_t now = clock_.BootMicros();
  const QueueView& view = View(now);
  const QueuedJob* queued = queue_.Find(job->id());
  const auto position =
      queued == nullptr ? view.positions.end() : view.positions.find(queued->number);
  if (position != view.positions.end()) {
    job->set_queue_position(position->second);
    job->set_state_reason(
        WhyQueued(*queued, position->second, view.fleet, view.draining_workers, hold_, now));
    return;
  }
  job->set_queue_position(static_cast<int32_t>(view.positions.size()) + 1);
  const v1::JobSpec& spec = job->has_resolved_spec() ? job->resolved_spec() : job->spec();
  const std::string never = view.fleet.WhyNever(spec.resources(), view.draining_workers);
  if (!never.empty()) job->set_state_reason(never);
}

DispatcherStats Dispatcher::Impl::Stats() const {
  MutexLock lock(mutex_);
  DispatcherStats stats;
  for (const auto& [name, worker] : workers_) {
    const v1::WorkerStatus status = StatusOf(worker);
    stats.workers_connected += status.connected() ? 1 : 0;
    stats.workers_draining += status.connected() && status.draining() ? 1 : 0;
  }
  stats.queued = static_cast<int64_t>(queue_.size() + given_.size());
  if (!queue_.empty()) {
    stats.oldest_wait_seconds =
        std::max(0.0, static_cast<double>(clock_.WallMicros() - queue_.OldestCreateMicros()) / 1e6);
  }
  stats.live_attempts = static_cast<int64_t>(live_.size());
  stats.leases_lost = leases_lost_;
  stats.stale_reports = stale_reports_;
  stats.held_syncs = static_cast<int64_t>(calls_.size());
  return stats;
}

int64_t Dispatcher::Impl::NextDeadline() const {
  MutexLock lock(mutex_);
  return deadline_;
}

void Dispatcher::Impl::Tick() {
  Actions actions;
  {
    MutexLock lock(mutex_);
    if (!started_ || stopped_) return;
    const int64_t now = clock_.BootMicros();
    CheckWorkers(now);
    TakeBackOffers(now);
    RunScheduler(now);
    AnswerCalls(now, &actions);
    ThinOldMetrics(now);
    ComputeDeadline(now);
  }
  RunActions(actions);
}

}  // namespace thaw
