// Group commit: one thread takes whatever has queued up while the disk was busy and commits it at
// once.
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "common/base/mutex.h"
#include "server/jobs/store_state.h"

namespace thaw {

// Each request runs behind its own savepoint, so a failing one takes nothing with it. When the
// commit itself fails, all of its group get that error. Thread-safe.
class WriteQueue {
 public:
  explicit WriteQueue(StoreState& state);
  // Runs what is queued, then ends the thread.
  ~WriteQueue();

  void Add(std::function<absl::Status(Transaction&)> fn, std::function<void(absl::Status)> done);
  int64_t size() const;

 private:
  struct Request {
    std::function<absl::Status(Transaction&)> fn;
    std::function<void(absl::Status)> done;
    absl::Status status;
  };
  void Loop();
  void Commit(std::vector<Request>& group);
  // Runs the requests within the open transaction; not OK when the transaction itself is gone.
  absl::Status RunAll(std::vector<Request>& group, Transaction::Effects& effects);
  absl::Status RunOne(Request& request, Transaction::Effects& effects);

  StoreState& state_;
  mutable Mutex mutex_;
  CondVar arrived_;
  std::deque<Request> requests_ THAW_GUARDED_BY(mutex_);
  bool closing_ THAW_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace thaw
