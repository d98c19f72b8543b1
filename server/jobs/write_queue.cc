#include "server/jobs/write_queue.h"

#include <chrono>
#include <iterator>
#include <utility>

#include "common/base/log.h"

namespace thaw {
namespace {

template <typename T>
void MoveAppend(std::vector<T>& to, std::vector<T>& from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

WriteQueue::WriteQueue(StoreState& state) : state_(state), thread_([this] { Loop(); }) {}

WriteQueue::~WriteQueue() {
  {
    MutexLock lock(mutex_);
    closing_ = true;
  }
  arrived_.Signal();
  thread_.join();
}

void WriteQueue::Add(std::function<absl::Status(Transaction&)> fn,
                     std::function<void(absl::Status)> done) {
  {
    MutexLock lock(mutex_);
    requests_.push_back({std::move(fn), std::move(done), absl::OkStatus()});
  }
  arrived_.Signal();
}

absl::Status WriteQueue::Write(const std::function<absl::Status(Transaction&)>& fn) {
  absl::Status status;
  bool done = false;
  MutexLock lock(mutex_);
  requests_.push_back({fn,
                       [&](absl::Status result) {
                         MutexLock done_lock(mutex_);
                         status = std::move(result);
                         done = true;
                       },
                       absl::OkStatus()});
  std::vector<Request> group;
  while (!done) {
    if (!Take(group)) {
      finished_.Wait(mutex_);
      continue;
    }
    mutex_.Unlock();
    Commit(group);
    mutex_.Lock();
  }
  return status;
}

int64_t WriteQueue::size() const {
  MutexLock lock(mutex_);
  return static_cast<int64_t>(requests_.size());
}

bool WriteQueue::Take(std::vector<Request>& group) {
  if (committing_ || requests_.empty()) return false;
  group.clear();
  while (!requests_.empty() && static_cast<int>(group.size()) < state_.options.max_group) {
    group.push_back(std::move(requests_.front()));
    requests_.pop_front();
  }
  committing_ = true;
  return true;
}

void WriteQueue::Loop() {
  std::vector<Request> group;
  while (true) {
    {
      MutexLock lock(mutex_);
      while (!Take(group)) {
        if (closing_ && !committing_) return;
        arrived_.Wait(mutex_);
      }
    }
    Commit(group);
  }
}

void WriteQueue::Commit(std::vector<Request>& group) {
  const auto begin = std::chrono::steady_clock::now();
  Transaction::Effects effects;
  absl::Status status = state_.writer.Prepare("BEGIN IMMEDIATE").Run();
  if (status.ok()) status = RunAll(group, effects);
  if (status.ok()) status = state_.writer.Prepare("COMMIT").Run();
  if (status.ok()) {
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    state_.commits += 1;
    state_.committed_requests += static_cast<int64_t>(group.size());
    if (state_.options.on_commit_seconds) state_.options.on_commit_seconds(took.count());
    state_.Publish(effects);
  } else {
    if (state_.writer.in_transaction()) (void)state_.writer.Execute("ROLLBACK");
    THAW_LOG(kError, "commit_failed", {"error", status.message()}, {"requests", group.size()});
    for (Request& request : group) request.status = status;
  }
  for (Request& request : group) {
    if (request.done) request.done(std::move(request.status));
  }
  MutexLock lock(mutex_);
  committing_ = false;
  finished_.SignalAll();
  if (!requests_.empty() || closing_) arrived_.Signal();
}

absl::Status WriteQueue::RunAll(std::vector<Request>& group, Transaction::Effects& effects) {
  for (Request& request : group) {
    if (absl::Status status = RunOne(request, effects); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status WriteQueue::RunOne(Request& request, Transaction::Effects& effects) {
  if (absl::Status status = state_.writer.Prepare("SAVEPOINT request").Run(); !status.ok()) {
    return status;
  }
  Transaction transaction(state_.writer, state_);
  request.status = request.fn(transaction);
  // Some errors, a full disk among them, roll back all of it.
  if (!state_.writer.in_transaction()) return request.status;
  if (!request.status.ok()) {
    if (absl::Status status = state_.writer.Prepare("ROLLBACK TO request").Run(); !status.ok()) {
      return status;
    }
    return state_.writer.Prepare("RELEASE request").Run();
  }
  if (absl::Status status = state_.writer.Prepare("RELEASE request").Run(); !status.ok()) {
    return status;
  }
  Transaction::Effects& own = transaction.effects();
  MoveAppend(effects.moves, own.moves);
  MoveAppend(effects.changed, own.changed);
  MoveAppend(effects.appended, own.appended);
  MoveAppend(effects.removed_artifacts, own.removed_artifacts);
  MoveAppend(effects.queue_waits, own.queue_waits);
  effects.attempts_lost += own.attempts_lost;
  return absl::OkStatus();
}

}  // namespace thaw
