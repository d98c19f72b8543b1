#include "worker/agent/trainer_pool.h"

#include <utility>

#include "common/base/log.h"

namespace thaw {
namespace {

// How often the end of the time is looked for while a trainer is warm.
constexpr double kPoolLookSeconds = 1;

}  // namespace

TrainerPool::TrainerPool(const WarmOptions& options, const Clock& clock)
    : options_(options), clock_(clock), thread_([this] { Main(); }) {}

TrainerPool::~TrainerPool() {
  Drop();
  {
    MutexLock lock(mutex_);
    closing_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

void TrainerPool::Main() {
  mutex_.Lock();
  while (!closing_) {
    if (!orders_.empty()) {
      Order order = std::move(orders_.front());
      orders_.pop_front();
      mutex_.Unlock();
      order.started.set_value(TrainerProcess::Start(order.command));
      mutex_.Lock();
    } else if (warm_ != nullptr) {
      changed_.WaitFor(mutex_, kPoolLookSeconds);
      if (warm_ == nullptr || clock_.BootMicros() < until_) continue;
      std::unique_ptr<TrainerProcess> expired = std::move(warm_);
      // Ending one may take a moment.
      mutex_.Unlock();
      expired.reset();
      mutex_.Lock();
    } else {
      changed_.Wait(mutex_);
    }
  }
  mutex_.Unlock();
}

absl::StatusOr<std::unique_ptr<TrainerProcess>> TrainerPool::Start(const TrainerCommand& command) {
  std::future<Started> started;
  {
    MutexLock lock(mutex_);
    Order& order = orders_.emplace_back();
    order.command = command;
    started = order.started.get_future();
    changed_.SignalAll();
  }
  return started.get();
}

std::unique_ptr<TrainerProcess> TrainerPool::Take(const std::string& key) {
  std::unique_ptr<TrainerProcess> taken;
  bool fits = false;
  {
    MutexLock lock(mutex_);
    taken = std::move(warm_);
    fits = taken != nullptr && !key.empty() && key == key_;
  }
  int wait_status = 0;
  if (fits && !taken->WaitFor(0, &wait_status)) return taken;
  if (taken != nullptr) {
    THAW_LOG(kInfo, "warm_trainer_dropped", {"pid", taken->pid()}, {"died", fits});
  }
  return nullptr;
}

void TrainerPool::KeepWarm(const std::string& key, std::unique_ptr<TrainerProcess> process,
                           int64_t memory_bytes) {
  if (!wants_warm() || key.empty() || memory_bytes > options_.most_bytes) return;
  THAW_LOG(kInfo, "trainer_warm", {"pid", process->pid()}, {"memory_bytes", memory_bytes});
  MutexLock lock(mutex_);
  std::swap(warm_, process);
  key_ = key;
  until_ = clock_.BootMicros() + static_cast<int64_t>(options_.seconds * 1e6);
  changed_.SignalAll();
}

void TrainerPool::Drop() { Take(""); }

}  // namespace thaw
