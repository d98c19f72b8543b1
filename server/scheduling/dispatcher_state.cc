// What a Sync brings in, and what the store reports back. See dispatcher_tick.cc for what follows
// from it.
#include "server/scheduling/dispatcher_state.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "server/jobs/attempt_table.h"
#include "server/jobs/state_machine.h"
#include "server/jobs/worker_table.h"

namespace thaw {
namespace {

constexpr size_t kMaxRetired = 16;
constexpr int64_t kRetryWriteMicros = 1'000'000;

bool IsStale(const absl::Status& status) { return ReasonOf(status) == "ATTEMPT_STALE"; }

absl::Status Outdated() {
  return WithReason(
      absl::AbortedError("a newer Sync of this worker was seen: go on with the next number"),
      "SYNC_OUTDATED");
}

}  // namespace

absl::Status Dispatcher::Impl::CheckIncarnation(const Worker& worker,
                                                const v1::SyncRequest& request) const {
  if (worker.record.incarnation == request.incarnation()) {
    return request.number() < worker.last_number ? Outdated() : absl::OkStatus();
  }
  const std::vector<std::string>& retired = worker.record.retired;
  if (std::find(retired.begin(), retired.end(), request.incarnation()) == retired.end()) {
    return absl::OkStatus();
  }
  return WithReason(absl::FailedPreconditionError(absl::StrCat(
                        "another process goes by the name of worker ", request.worker(),
                        " now: give every worker a name of its own")),
                    "WORKER_REPLACED");
}

uint64_t Dispatcher::Impl::Admit(const v1::SyncRequest& request, Arrival arrived, SyncDone done,
                                 Actions* actions) {
  const int64_t now = clock_.BootMicros();
  Worker& worker = workers_[request.worker()];
  if (absl::Status refused = CheckIncarnation(worker, request); !refused.ok()) {
    actions->push_back([done = std::move(done), refused] { done(refused); });
    return 0;
  }
  if (!IsAvailable(worker, now)) Changed();
  bool persist = !worker.seen;
  if (worker.record.incarnation != request.incarnation()) {
    if (!worker.record.incarnation.empty()) {
      worker.record.retired.insert(worker.record.retired.begin(), worker.record.incarnation);
      if (worker.record.retired.size() > kMaxRetired) worker.record.retired.resize(kMaxRetired);
    }
    worker.record.name = request.worker();
    worker.record.incarnation = request.incarnation();
    worker.record.draining = false;
    persist = true;
    Changed();
  }
  if (worker.record.offer.SerializeAsString() != request.offer().SerializeAsString()) {
    worker.record.offer = request.offer();
    persist = true;
    Changed();
  }
  worker.seen = true;
  worker.lease_stands = true;
  if (worker.leaving != request.draining()) Changed();
  worker.leaving = request.draining();
  worker.last_number = request.number();
  worker.last_sync = now;
  worker.record.seen_micros = clock_.WallMicros();
  next_worker_check_ = std::min(next_worker_check_, LeaseEnd(worker));

  if (const auto earlier = calls_.find(worker.call); earlier != calls_.end()) {
    actions->push_back(
        [earlier_done = std::move(earlier->second.done)] { earlier_done(Outdated()); });
    calls_.erase(earlier);
  }
  const uint64_t ticket = ++last_ticket_;
  worker.call = ticket;
  Call& call = calls_[ticket];
  call.worker = request.worker();
  call.incarnation = request.incarnation();
  call.number = request.number();
  call.arrived = arrived;
  call.done = std::move(done);
  call.hold_until = now + static_cast<int64_t>(options_.idle_hang_seconds * 1e6);
  for (const v1::AttemptReport& report : request.attempts()) {
    call.reported.emplace_back(report.job(), report.attempt_id());
  }
  if (persist) {
    Write(
        ticket, [record = worker.record](Transaction& t) { return PutWorker(t, record); },
        [](const absl::Status&) {});
  }
  for (const v1::AttemptReport& report : request.attempts()) {
    const auto live = live_.find(report.attempt_id());
    if (live != live_.end() && live->second.worker == request.worker()) {
      Report(ticket, request, report);
    } else {
      ReportStale(ticket, request, report);
    }
  }
  FindMissing(ticket, worker, request);
  Consider(worker);
  return ticket;
}

void Dispatcher::Impl::Report(uint64_t ticket, const v1::SyncRequest& request,
                              const v1::AttemptReport& report) {
  auto attempt = std::make_shared<AttemptRecord>();
  Write(
      ticket,
      [worker = request.worker(), incarnation = request.incarnation(), number = request.number(),
       report, attempt](Transaction& t) mutable -> absl::Status {
        // Run once at most, and the points are many.
        THAW_ASSIGN_OR_RETURN(*attempt,
                              ApplyReport(t, worker, incarnation, number, std::move(report)));
        return absl::OkStatus();
      },
      [this, attempt](const absl::Status& status) {
        if (status.ok()) Accept(*attempt);
      });
}

void Dispatcher::Impl::ReportStale(uint64_t ticket, const v1::SyncRequest& request,
                                   const v1::AttemptReport& report) {
  struct Outcome {
    bool stale = false;
    std::optional<AttemptRecord> attempt;
  };
  auto outcome = std::make_shared<Outcome>();
  Write(
      ticket,
      [worker = request.worker(), incarnation = request.incarnation(), number = request.number(),
       report, outcome](Transaction& t) mutable -> absl::Status {
        const absl::StatusOr<AttemptRecord> known = GetAttempt(t, report.attempt_id());
        if (!known.ok() && !absl::IsNotFound(known.status())) return known.status();
        // The answer that told the worker so may have been lost.
        if (known.ok() && known->worker == worker && known->state == AttemptState::kEnded) {
          return absl::OkStatus();
        }
        bool back = false;
        if (report.state() != v1::AttemptReport::ENDED) {
          THAW_ASSIGN_OR_RETURN(back, ReattachAttempt(t, worker, report.attempt_id()));
        }
        // It may have become live again while this request was on its way.
        const bool live =
            known.ok() && known->worker == worker &&
            (known->state == AttemptState::kOffered || known->state == AttemptState::kAccepted);
        if (back || live) {
          THAW_ASSIGN_OR_RETURN(outcome->attempt,
                                ApplyReport(t, worker, incarnation, number, std::move(report)));
          return absl::OkStatus();
        }
        t.CountFenced();
        outcome->stale = true;
        return absl::OkStatus();
      },
      [this, outcome, id = report.attempt_id(),
       worker = request.worker()](const absl::Status& status) {
        if (status.ok() && outcome->attempt.has_value()) Accept(*outcome->attempt);
        if (!outcome->stale) return;
        ++stale_reports_;
        THAW_LOG(kWarning, "stale_attempt", {"attempt", id}, {"worker", worker});
      });
}

void Dispatcher::Impl::FindMissing(uint64_t ticket, const Worker& worker,
                                   const v1::SyncRequest& request) {
  std::set<std::string> reported;
  for (const v1::AttemptReport& report : request.attempts()) reported.insert(report.attempt_id());
  for (const std::string& id : worker.attempts) {
    if (reported.count(id) != 0) continue;
    Live& live = live_.at(id);
    if (live.ending) continue;
    const bool same_process = live.incarnation == request.incarnation();
    if (live.accepted) {
      // Only a report that was sent later can miss it.
      if (!same_process) {
        Drop(ticket, id, live, absl::StrCat("worker ", request.worker(), " was restarted"));
      } else if (request.number() > live.accepted_number) {
        Drop(ticket, id, live,
             absl::StrCat("worker ", request.worker(), " does not hold it any more"));
      }
    } else if (live.sent && !same_process) {
      Drop(ticket, id, live,
           absl::StrCat("worker ", request.worker(), " was restarted before it began"));
    } else if (live.sent && request.number() > live.sent_number &&
               (live.job_state == v1::Job::CANCELLING || worker.draining())) {
      // The answer that carried it was lost, and it need not be sent again.
      Withdraw(ticket, id, live);
    }
  }
}

void Dispatcher::Impl::Drop(uint64_t ticket, const std::string& attempt_id, Live& live,
                            const std::string& detail) {
  THAW_LOG(kWarning, "attempt_lost", {"job", live.job}, {"attempt", attempt_id}, {"why", detail});
  EndLive(ticket, attempt_id, live,
          [attempt_id, detail](Transaction& t) { return LoseAttempt(t, attempt_id, detail); });
}

void Dispatcher::Impl::Withdraw(uint64_t ticket, const std::string& attempt_id, Live& live) {
  EndLive(ticket, attempt_id, live,
          [attempt_id](Transaction& t) { return WithdrawAttempt(t, attempt_id); });
}

void Dispatcher::Impl::EndLive(uint64_t ticket, const std::string& attempt_id, Live& live,
                               std::function<absl::Status(Transaction&)> fn) {
  live.ending = true;
  Write(ticket, std::move(fn), [this, attempt_id](const absl::Status& status) {
    const auto found = live_.find(attempt_id);
    if (found == live_.end()) return;
    found->second.ending = false;
    if (!status.ok()) {
      found->second.retry_at = clock_.BootMicros() + kRetryWriteMicros;
      next_worker_check_ = std::min(next_worker_check_, found->second.retry_at);
    }
    Consider(workers_.at(found->second.worker));
  });
}

void Dispatcher::Impl::Write(uint64_t ticket, std::function<absl::Status(Transaction&)> fn,
                             std::function<void(const absl::Status&)> after) {
  if (const auto call = calls_.find(ticket); call != calls_.end()) ++call->second.writes;
  store_.Enqueue(std::move(fn), [this, ticket, after = std::move(after)](absl::Status status) {
    MutexLock lock(mutex_);
    after(status);
    if (!status.ok() && !IsStale(status)) {
      THAW_LOG(kError, "dispatcher_write_failed", {"error", status.message()});
    }
    if (const auto call = calls_.find(ticket); call != calls_.end()) {
      considered_.insert(ticket);
      if (--call->second.writes == 0 && options_.on_sync_commit_seconds) {
        const std::chrono::duration<double> took =
            std::chrono::steady_clock::now() - call->second.arrived;
        options_.on_sync_commit_seconds(took.count());
      }
      // A stale attempt is answered by its verdict; anything else means that nothing can be
      // acknowledged.
      if (!status.ok() && !IsStale(status)) call->second.status = status;
    }
    Wake();
  });
}

void Dispatcher::Impl::Accept(const AttemptRecord& attempt) {
  const auto found = live_.find(attempt.id);
  if (found == live_.end()) return;
  Live& live = found->second;
  live.accepted = true;
  live.incarnation = attempt.incarnation;
  live.accepted_number = attempt.accepted_number;
  live.acknowledged = attempt.acknowledged;
  live.assignment.reset();
  Consider(workers_.at(live.worker));
}

void Dispatcher::Impl::Consider(const Worker& worker) {
  if (worker.call != 0) considered_.insert(worker.call);
}

void Dispatcher::Impl::OnJobsChanged(const std::vector<JobView>& views) {
  const int64_t now = clock_.BootMicros();
  for (const JobView& view : views) {
    if (RemoveQueued(view.id)) Changed();
    if (view.state == v1::Job::QUEUED) {
      // The wall clock may have been set meanwhile: never wait longer than the longest back-off.
      const int64_t longest = int64_t{3600} * 1'000'000;
      const int64_t wait = std::clamp<int64_t>(view.not_before_micros - clock_.WallMicros(), 0,
                                               view.not_before_micros > 0 ? longest : 0);
      queue_.Put({.id = view.id,
                  .owner = view.owner,
                  .priority = view.priority,
                  .number = view.number,
                  .resources = view.resources,
                  .create_micros = view.create_micros,
                  .wait_reason = wait > 0 ? view.reason : ""});
      if (wait > 0) BackOff(view.id, now + wait);
      Changed();
    }
    const auto attempt = attempt_of_.find(view.id);
    if (attempt != attempt_of_.end() && attempt->second != view.attempt_id) {
      RemoveLive(std::string(attempt->second));
    }
    if (!view.attempt_id.empty()) AddLive(view);
  }
}

void Dispatcher::Impl::BackOff(const std::string& job, int64_t until) {
  backing_off_.erase({queue_.Find(job)->not_before, job});
  queue_.SetNotBefore(job, until);
  backing_off_.emplace(until, job);
}

bool Dispatcher::Impl::RemoveQueued(const std::string& job) {
  if (given_.erase(job) > 0) return true;
  const QueuedJob* found = queue_.Find(job);
  if (found == nullptr) return false;
  backing_off_.erase({found->not_before, job});
  return queue_.Remove(job);
}

void Dispatcher::Impl::Changed() {
  reschedule_ = true;
  view_outdated_ = true;
}

void Dispatcher::Impl::AddLive(const JobView& view) {
  Live& live = live_[view.attempt_id];
  live.job_state = view.state;
  live.steerings = view.steerings;
  Consider(workers_[view.worker]);
  if (!live.job.empty()) return;
  attempt_of_[view.id] = view.attempt_id;
  live.job = view.id;
  live.owner = view.owner;
  live.worker = view.worker;
  live.begun = clock_.BootMicros();
  Worker& worker = workers_[view.worker];
  worker.record.name = view.worker;
  if (worker.last_sync == 0) worker.last_sync = live.begun;
  worker.attempts.insert(view.attempt_id);
  unsent_.insert(view.attempt_id);
  next_worker_check_ = std::min(next_worker_check_, LeaseEnd(worker));
  live.hold.owner = view.owner;
  live.hold.device_count = std::max(1, view.resources.device_count());
  live.hold.min_memory_bytes = view.resources.min_memory_bytes();
  live.hold.kind = view.resources.device_kind();
  if (live.hold.kind != v1::Resources::DEVICE_KIND_UNSPECIFIED) return;
  const auto& devices = worker.record.offer.devices();
  const bool cuda = std::any_of(devices.begin(), devices.end(), [](const v1::Device& device) {
    return device.kind() == v1::Resources::CUDA;
  });
  live.hold.kind = cuda ? v1::Resources::CUDA : v1::Resources::CPU;
}

void Dispatcher::Impl::RemoveLive(const std::string& attempt_id) {
  const auto found = live_.find(attempt_id);
  const Live& live = found->second;
  const int64_t now = clock_.BootMicros();
  DecayUse(now);
  recent_use_[live.owner] += live.hold.device_count * static_cast<double>(now - live.begun) / 1e6;
  if (const auto worker = workers_.find(live.worker); worker != workers_.end()) {
    worker->second.attempts.erase(attempt_id);
    Consider(worker->second);
  }
  unsent_.erase(attempt_id);
  attempt_of_.erase(live.job);
  live_.erase(found);
  Changed();
}

void Dispatcher::Impl::DecayUse(int64_t now) {
  constexpr double kHalfLifeSeconds = 3600;
  const double factor =
      std::exp2(-static_cast<double>(now - use_decayed_) / 1e6 / kHalfLifeSeconds);
  for (auto& [owner, use] : recent_use_) use *= factor;
  use_decayed_ = now;
}

}  // namespace thaw
