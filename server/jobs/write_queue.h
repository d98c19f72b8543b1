// Group commit: whoever finds the disk idle takes whatever has queued up and commits it at once.
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
// commit itself fails, all of its group get that error. Commits follow one another, each on the
// thread that called Write, as handing a lone request to another thread and back costs more than
// the disk does, or on the queue's own. Thread-safe.
class WriteQueue {
 public:
  explicit WriteQueue(StoreState& state);
  // Runs what is queued, then ends the thread.
  ~WriteQueue();

  // `done` is called on a thread that commits.
  void Add(std::function<absl::Status(Transaction&)> fn, std::function<void(absl::Status)> done);
  // Waits for the commit. Not on a thread that commits.
  absl::Status Write(const std::function<absl::Status(Transaction&)>& fn);
  int64_t size() const;

 private:
  struct Request {
    std::function<absl::Status(Transaction&)> fn;
    std::function<void(absl::Status)> done;
    absl::Status status;
  };
  void Loop();
  // Takes the next group, if there is one and nobody commits.
  bool Take(std::vector<Request>& group) THAW_REQUIRES(mutex_);
  void Commit(std::vector<Request>& group);
  // Runs the requests within the open transaction; not OK when the transaction itself is gone.
  absl::Status RunAll(std::vector<Request>& group, Transaction::Effects& effects);
  absl::Status RunOne(Request& request, Transaction::Effects& effects);

  StoreState& state_;
  mutable Mutex mutex_;
  CondVar arrived_;   // for the queue's own thread
  CondVar finished_;  // for those in Write
  std::deque<Request> requests_ THAW_GUARDED_BY(mutex_);
  bool committing_ THAW_GUARDED_BY(mutex_) = false;
  bool closing_ THAW_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace thaw
