#include "worker/trainer/inbox.h"

#include <utility>

#include "common/base/log.h"

namespace thaw {

void Inbox::Take(internal::ToTrainer frame) {
  MutexLock lock(mutex_);
  if (frame.has_run()) {
    newest_ = std::make_shared<Control>();
    waiting_.push_back({std::move(*frame.mutable_run()), newest_});
    changed_.SignalAll();
    return;
  }
  switch (frame.frame_case()) {
    case internal::ToTrainer::kWriteCheckpoint:
      newest_->RequestCheckpoint();
      break;
    case internal::ToTrainer::kPause:
      newest_->RequestPause();
      break;
    case internal::ToTrainer::kStop:
      newest_->RequestStop();
      break;
    case internal::ToTrainer::kHold:
      newest_->Hold();
      break;
    case internal::ToTrainer::kResume:
      newest_->Resume();
      break;
    case internal::ToTrainer::kSteer:
      newest_->Steer(frame.steer());
      break;
    default:
      THAW_LOG(kWarning, "frame_ignored", {"kind", static_cast<int>(frame.frame_case())});
  }
}

Inbox::Work Inbox::Next() {
  MutexLock lock(mutex_);
  while (waiting_.empty()) changed_.Wait(mutex_);
  Work work = std::move(waiting_.front());
  waiting_.pop_front();
  return work;
}

}  // namespace thaw
