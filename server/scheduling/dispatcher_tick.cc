// What time and new work bring: leases that run out, offers that nobody fetches, assignments,
// answers.
#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/id.h"
#include "common/base/log.h"
#include "server/jobs/attempt_table.h"
#include "server/jobs/event_log.h"
#include "server/jobs/worker_table.h"
#include "server/scheduling/dispatcher_state.h"

namespace thaw {
namespace {

constexpr int kThinnedAtOnce = 200;
// Before a worker that was told to forget an attempt is asked again.
constexpr double kForgetPauseSeconds = 0.02;

int64_t InMicros(double seconds) { return static_cast<int64_t>(seconds * 1e6); }

google::protobuf::Duration InDuration(double seconds) {
  google::protobuf::Duration duration;
  const int64_t micros = InMicros(seconds);
  duration.set_seconds(micros / 1'000'000);
  duration.set_nanos(static_cast<int32_t>(micros % 1'000'000) * 1'000);
  return duration;
}

}  // namespace

int64_t Dispatcher::Impl::LeaseEnd(const Worker& worker) const {
  return worker.last_sync + InMicros(options_.lease_seconds + options_.grace_seconds);
}

double Dispatcher::Impl::BusyInterval() const {
  return std::min(options_.max_interval_seconds,
                  options_.busy_interval_seconds +
                      static_cast<double>(live_.size()) / options_.attempts_per_second);
}

bool Dispatcher::Impl::IsAvailable(const Worker& worker, int64_t now) const {
  if (!worker.seen || !worker.lease_stands) return false;
  return worker.call != 0 || now - worker.last_sync <=
                                 InMicros(2 * BusyInterval() + options_.offer_timeout_seconds / 2);
}

bool Dispatcher::Impl::HasFreeSlot(int64_t now) const {
  return std::any_of(workers_.begin(), workers_.end(), [&](const auto& entry) {
    const Worker& worker = entry.second;
    return static_cast<int>(worker.attempts.size()) < worker.record.offer.slots() &&
           !worker.draining() && IsAvailable(worker, now);
  });
}

int64_t Dispatcher::Impl::ScheduleGap() const {
  // Several times what a run takes; nothing where it takes no time.
  constexpr int64_t kWorkersPerMilli = 100;
  constexpr int64_t kJobsPerMilli = 10'000;
  const auto workers = static_cast<int64_t>(workers_.size());
  const auto jobs = static_cast<int64_t>(queue_.size());
  return (workers / kWorkersPerMilli + jobs / kJobsPerMilli) * 1'000;
}

int64_t Dispatcher::Impl::ViewGap() const {
  // A twentieth of one core will do for what people read.
  constexpr int64_t kWorkersPerMilli = 50;
  constexpr int64_t kJobsPerMilli = 500;
  const auto workers = static_cast<int64_t>(workers_.size());
  const auto jobs = static_cast<int64_t>(queue_.size());
  return (workers / kWorkersPerMilli + jobs / kJobsPerMilli) * 1'000;
}

void Dispatcher::Impl::CheckWorkers(int64_t now) {
  if (now < next_worker_check_) return;
  next_worker_check_ = std::numeric_limits<int64_t>::max();
  for (auto entry = workers_.begin(); entry != workers_.end();) {
    auto& [name, worker] = *entry;
    int64_t next = LeaseEnd(worker);
    if (now >= next) {
      Expire(name, worker, now);
      next = worker.last_sync + InMicros(options_.forget_worker_seconds);
      if (worker.attempts.empty() && worker.call == 0 && now >= next) {
        Write(
            0, [gone = name](Transaction& t) { return DeleteWorker(t, gone); },
            [](const absl::Status&) {});
        entry = workers_.erase(entry);
        continue;
      }
      // Something keeps it.
      if (now >= next) next = now + InMicros(options_.busy_interval_seconds);
      for (const std::string& id : worker.attempts) {
        // What is being written brings its own news.
        const Live& live = live_.at(id);
        next = live.ending ? next : std::min(next, live.retry_at);
      }
    }
    next_worker_check_ = std::min(next_worker_check_, next);
    ++entry;
  }
}

void Dispatcher::Impl::Expire(const std::string& name, Worker& worker, int64_t now) {
  if (worker.lease_stands) {
    worker.lease_stands = false;
    Changed();
    if (!worker.attempts.empty()) ++leases_lost_;
  }
  for (const std::string& id : worker.attempts) {
    Live& live = live_.at(id);
    if (live.ending || now < live.retry_at) continue;
    Drop(0, id, live,
         absl::StrCat("worker ", name, " was not heard of for ",
                      (now - worker.last_sync) / 1'000'000, " s"));
  }
}

void Dispatcher::Impl::TakeBackOffers(int64_t now) {
  for (auto entry = unsent_.begin(); entry != unsent_.end();) {
    Live& live = live_.at(*entry);
    if (live.accepted || live.sent) {
      entry = unsent_.erase(entry);
      continue;
    }
    const std::string& id = *entry++;
    if (!live.assignment.has_value() || live.ending || now < live.retry_at) continue;
    const Worker& worker = workers_.at(live.worker);
    if (live.job_state == v1::Job::CANCELLING || worker.draining() ||
        now - live.begun >= InMicros(options_.offer_timeout_seconds)) {
      Withdraw(0, id, live);
    }
  }
}

void Dispatcher::Impl::ThinOldMetrics(int64_t now) {
  if (now < next_thinning_) return;
  next_thinning_ = now + InMicros(options_.thin_metrics_seconds);
  auto thinned = std::make_shared<int>(0);
  Write(
      0,
      [thinned](Transaction& t) {
        const absl::StatusOr<int> count = ThinMetrics(t, kThinnedAtOnce);
        if (count.ok()) *thinned = *count;
        return count.status();
      },
      [this, thinned](const absl::Status& status) {
        // More is due: go on soon, but let others write in between.
        if (status.ok() && *thinned == kThinnedAtOnce) {
          next_thinning_ = clock_.BootMicros() + InMicros(options_.busy_interval_seconds);
        }
      });
}

SchedulerInput Dispatcher::Impl::BuildInput(int64_t now) const {
  SchedulerInput input;
  input.queue = &queue_;
  input.recent_use = recent_use_;
  input.hold = hold_;
  input.now = now;
  std::map<std::string, size_t> index;
  for (const auto& [name, worker] : workers_) {
    if (!worker.seen || !worker.lease_stands) continue;
    if (worker.draining()) {
      ++input.draining_workers;
      continue;
    }
    index[name] = input.workers.size();
    SchedulableWorker& out = input.workers.emplace_back();
    out.name = name;
    out.offer = worker.record.offer;
    out.available = IsAvailable(worker, now);
    for (const std::string& id : worker.attempts) out.holds.push_back(live_.at(id).hold);
  }
  for (const auto& [id, given] : given_) {
    const auto found = index.find(given.worker);
    if (found != index.end()) input.workers[found->second].holds.push_back(given.hold);
  }
  return input;
}

void Dispatcher::Impl::RunScheduler(int64_t now) {
  while (!backing_off_.empty() && backing_off_.begin()->first <= now) {
    backing_off_.erase(backing_off_.begin());
    Changed();
  }
  if (!reschedule_) return;
  if (scheduled_ != 0 && now - scheduled_ < ScheduleGap()) return;
  reschedule_ = false;
  scheduled_ = now;
  if (queue_.empty() || !HasFreeSlot(now)) return;
  DecayUse(now);
  const auto begin = std::chrono::steady_clock::now();
  for (const JobAssignment& assignment : Schedule(BuildInput(now))) Begin(assignment);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  if (options_.on_schedule_seconds) options_.on_schedule_seconds(took.count());
}

const Dispatcher::Impl::QueueView& Dispatcher::Impl::View(int64_t now) const {
  if (!view_outdated_ || (view_.made != 0 && now - view_.made < ViewGap())) return view_;
  const SchedulerInput input = BuildInput(now);
  view_.fleet = Fleet(input.workers);
  view_.draining_workers = input.draining_workers;
  view_.positions.clear();
  view_.positions.reserve(queue_.size());
  int position = 0;
  for (const QueuedJob* job : RunningOrder(input)) view_.positions[job->number] = ++position;
  view_.made = now;
  view_outdated_ = false;
  return view_;
}

void Dispatcher::Impl::Begin(const JobAssignment& assignment) {
  Given& given = given_[assignment.job];
  given.job = *queue_.Find(assignment.job);
  given.worker = assignment.worker;
  given.hold.owner = given.job.owner;
  given.hold.kind = assignment.kind;
  given.hold.device_count = DeviceCount(given.job.resources);
  given.hold.min_memory_bytes = given.job.resources.min_memory_bytes();
  queue_.Remove(assignment.job);
  view_outdated_ = true;
  const std::string id = RandomId();
  auto built = std::make_shared<v1::Assignment>();
  Write(
      0,
      [assignment, id, built](Transaction& t) -> absl::Status {
        absl::StatusOr<v1::Assignment> begun =
            BeginAttempt(t, assignment.job, id, assignment.worker, assignment.kind);
        // Paused or cancelled meanwhile: there is nothing to begin.
        if (absl::IsFailedPrecondition(begun.status())) return absl::OkStatus();
        if (!begun.ok()) return begun.status();
        *built = *std::move(begun);
        return absl::OkStatus();
      },
      [this, id, built, job = assignment.job](const absl::Status& status) {
        if (const auto found = live_.find(id); found != live_.end()) {
          found->second.assignment = std::move(*built);
          Consider(workers_.at(found->second.worker));
        }
        const auto back = given_.find(job);
        if (back == given_.end()) return;
        queue_.Put(std::move(back->second.job));
        given_.erase(back);
        Changed();
        if (!status.ok()) BackOff(job, clock_.BootMicros() + 1'000'000);
      });
}

v1::DesiredAttempt::Verdict Dispatcher::Impl::VerdictOn(const Live& live,
                                                        const Worker& worker) const {
  if (live.job_state == v1::Job::CANCELLING) return v1::DesiredAttempt::STOP;
  if (live.job_state == v1::Job::PAUSING) return v1::DesiredAttempt::PAUSE;
  if (worker.draining()) return v1::DesiredAttempt::HAND_BACK;
  return v1::DesiredAttempt::RUN;
}

std::optional<v1::SyncResponse> Dispatcher::Impl::Answer(const Call& call, Worker& worker,
                                                         int64_t now) {
  v1::SyncResponse response;
  response.set_incarnation(call.incarnation);
  response.set_number(call.number);
  *response.mutable_lease() = InDuration(options_.lease_seconds);
  response.set_drain(worker.draining());
  for (const std::string& id : worker.attempts) {
    Live& live = live_.at(id);
    if (live.ending || (!live.accepted && !live.assignment.has_value())) continue;
    const v1::DesiredAttempt::Verdict verdict = VerdictOn(live, worker);
    // What the worker has not been told of need not be told to stop.
    if (!live.accepted && verdict != v1::DesiredAttempt::RUN) continue;
    v1::DesiredAttempt& desired = *response.add_attempts();
    desired.set_job(live.job);
    desired.set_attempt_id(id);
    desired.set_verdict(verdict);
    desired.set_acknowledged_sequence(live.acknowledged);
    desired.mutable_steerings()->Add(live.steerings.begin(), live.steerings.end());
    if (!live.accepted) {
      *desired.mutable_assignment() = *live.assignment;
      live.sent = true;
      live.sent_number = call.number;
      live.incarnation = call.incarnation;
    }
  }
  const bool busy = response.attempts_size() > 0;
  bool forgets = false;
  for (const auto& [job, id] : call.reported) {
    if (worker.attempts.count(id) != 0) continue;
    v1::DesiredAttempt& desired = *response.add_attempts();
    desired.set_job(job);
    desired.set_attempt_id(id);
    desired.set_verdict(v1::DesiredAttempt::FORGET);
    forgets = true;
  }
  if (busy || response.drain()) {
    *response.mutable_next_sync() = InDuration(BusyInterval());
  } else if (forgets) {
    *response.mutable_next_sync() = InDuration(kForgetPauseSeconds);
  } else if (now < call.hold_until) {
    return std::nullopt;
  }
  return response;
}

void Dispatcher::Impl::AnswerCalls(int64_t now, Actions* actions) {
  for (const auto& [ticket, call] : calls_) {
    if (now < call.hold_until) break;
    considered_.insert(ticket);
  }
  const std::set<uint64_t> tickets = std::exchange(considered_, {});
  for (const uint64_t ticket : tickets) {
    const auto entry = calls_.find(ticket);
    if (entry == calls_.end()) continue;
    Call& call = entry->second;
    Worker& worker = workers_.at(call.worker);
    std::optional<absl::StatusOr<v1::SyncResponse>> answer;
    if (call.writes == 0) {
      if (!call.status.ok()) {
        answer = call.status;
      } else if (std::optional<v1::SyncResponse> response = Answer(call, worker, now)) {
        answer = *std::move(response);
      }
    }
    if (!answer.has_value()) continue;
    actions->push_back(
        [done = std::move(call.done), result = *std::move(answer)] { done(result); });
    worker.call = 0;
    calls_.erase(entry);
  }
}

void Dispatcher::Impl::ComputeDeadline(int64_t now) {
  int64_t deadline = std::min(next_thinning_, next_worker_check_);
  for (const auto& [ticket, call] : calls_) {
    // What is being written wakes us when it is done.
    if (call.writes != 0) continue;
    deadline = std::min(deadline, call.hold_until);
    break;
  }
  for (const std::string& id : unsent_) {
    const Live& live = live_.at(id);
    if (live.sent || live.ending || !live.assignment.has_value()) continue;
    deadline = std::min(
        deadline, std::max(live.retry_at, live.begun + InMicros(options_.offer_timeout_seconds)));
  }
  if (!backing_off_.empty()) deadline = std::min(deadline, backing_off_.begin()->first);
  if (reschedule_) {
    deadline = std::min(deadline, scheduled_ + ScheduleGap());
  }
  deadline_ = deadline;
}

}  // namespace thaw
