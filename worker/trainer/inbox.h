// What the worker sends: attempts to run, and what is asked of the one that runs.
#pragma once

#include <deque>
#include <memory>

#include "common/base/mutex.h"
#include "thaw/internal/trainer.pb.h"
#include "worker/training/control.h"

namespace thaw {

// Filled by the thread that reads frames, emptied by the training thread. What is asked concerns
// the newest attempt alone: a pause that comes late does not hit the attempt after it.
class Inbox {
 public:
  struct Work {
    internal::Run run;
    std::shared_ptr<Control> control;
  };

  // Reading thread; the first frame is an attempt.
  void Take(internal::ToTrainer frame);
  // Training thread: waits for an attempt.
  Work Next();

 private:
  Mutex mutex_;
  CondVar changed_;
  std::deque<Work> waiting_ THAW_GUARDED_BY(mutex_);
  std::shared_ptr<Control> newest_ THAW_GUARDED_BY(mutex_);
};

}  // namespace thaw
