#include "worker/training/control.h"

#include <utility>

namespace thaw {

void Control::RequestCheckpoint() {
  MutexLock lock(mutex_);
  requests_.checkpoint = true;
  changed_.SignalAll();
}

void Control::RequestPause() {
  MutexLock lock(mutex_);
  requests_.pause = true;
  changed_.SignalAll();
}

void Control::RequestStop() {
  MutexLock lock(mutex_);
  requests_.stop = true;
  changed_.SignalAll();
}

void Control::Hold() {
  MutexLock lock(mutex_);
  held_ = true;
}

void Control::Resume() {
  MutexLock lock(mutex_);
  held_ = false;
  changed_.SignalAll();
}

void Control::Steer(const v1::SteeringRecord& record) {
  MutexLock lock(mutex_);
  steerings_.emplace(record.number(), record);
}

void Control::TakeSteerings(std::map<int32_t, v1::SteeringRecord>* steerings) {
  MutexLock lock(mutex_);
  steerings->merge(steerings_);
  steerings_.clear();
}

bool Control::ShouldEnd() {
  MutexLock lock(mutex_);
  return requests_.pause || requests_.stop;
}

Control::Requests Control::AtBoundary(const std::function<void()>& beat) {
  mutex_.Lock();
  while (held_ && !requests_.checkpoint && !requests_.pause && !requests_.stop) {
    if (!changed_.WaitFor(mutex_, 1.0)) {
      mutex_.Unlock();
      beat();
      mutex_.Lock();
    }
  }
  const Requests result = requests_;
  requests_.checkpoint = false;
  mutex_.Unlock();
  return result;
}

}  // namespace thaw
