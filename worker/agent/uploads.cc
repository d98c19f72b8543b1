#include "worker/agent/uploads.h"

#include <iterator>
#include <utility>

#include "common/base/files.h"
#include "common/base/status.h"

namespace thaw {
namespace {

constexpr size_t kMostWaiting = 2;

}  // namespace

CheckpointUploads::CheckpointUploads(ServerLink& link, std::string attempt_id,
                                     std::function<void(const absl::Status&)> on_failure)
    : link_(link),
      attempt_id_(std::move(attempt_id)),
      on_failure_(std::move(on_failure)),
      thread_([this] { Main(); }) {}

CheckpointUploads::~CheckpointUploads() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

void CheckpointUploads::Add(const internal::CheckpointReady& checkpoint,
                            const std::string& directory, std::function<bool()> may_begin) {
  std::deque<Item> dropped;
  {
    MutexLock lock(mutex_);
    waiting_.push_back({checkpoint, directory, std::move(may_begin)});
    if (waiting_.size() > kMostWaiting) {
      // Of the three the first that is neither newest nor newest best.
      auto victim = waiting_.begin();
      if (victim->checkpoint.best() && !std::next(victim)->checkpoint.best() &&
          !waiting_.back().checkpoint.best()) {
        ++victim;
      }
      dropped.push_back(std::move(*victim));
      waiting_.erase(victim);
    }
    changed_.SignalAll();
  }
  for (const Item& item : dropped) RemoveTree(item.directory).IgnoreError();
}

absl::Status CheckpointUploads::Drain(const std::function<bool()>& cancelled) {
  MutexLock lock(mutex_);
  while (busy_ || !waiting_.empty()) {
    if (cancelled()) return absl::CancelledError("stopped");
    changed_.WaitFor(mutex_, 0.2);
  }
  return newest_;
}

void CheckpointUploads::Main() {
  while (true) {
    Item item;
    {
      MutexLock lock(mutex_);
      while (waiting_.empty() && !stop_) changed_.Wait(mutex_);
      if (stop_) return;
      item = std::move(waiting_.front());
      waiting_.pop_front();
      busy_ = true;
    }
    v1::FinishUploadRequest finish;
    finish.mutable_checkpoint()->set_step(item.checkpoint.step());
    finish.mutable_checkpoint()->set_phase(item.checkpoint.phase());
    finish.mutable_checkpoint()->set_best(item.checkpoint.best());
    const auto stopped = [this] {
      MutexLock lock(mutex_);
      return stop_;
    };
    while (!stopped() && !item.may_begin()) {
    }
    const absl::Status status = link_.Publish(attempt_id_, item.directory, finish, stopped);
    RemoveTree(item.directory).IgnoreError();
    if (!status.ok() && !stopped() && ReasonOf(status) != "ATTEMPT_STALE") on_failure_(status);
    MutexLock lock(mutex_);
    newest_ = status;
    busy_ = false;
    changed_.SignalAll();
  }
}

}  // namespace thaw
