// All trainers of a worker; between two predictions on the same model one may wait warm, with that
// model in memory.
#pragma once

#include <cstdint>
#include <deque>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "worker/agent/trainer_process.h"

namespace thaw {

struct WarmOptions {
  double seconds = 60;  // how long a trainer waits warm for another prediction; 0: none does
  int64_t most_bytes = int64_t{8} << 30;  // one that holds more memory does not
};

// Starts all trainers of a worker, on a thread of its own, for the kernel ends a trainer with the
// thread that started it; holds at most one that waits warm. That one never counts as work:
// whatever starts next, without it or with it, comes first, so its memory is free to be offered.
// Thread-safe; outlives every trainer that it started.
class TrainerPool {
 public:
  // `clock` must outlive it.
  TrainerPool(const WarmOptions& options, const Clock& clock);
  ~TrainerPool();

  absl::StatusOr<std::unique_ptr<TrainerProcess>> Start(const TrainerCommand& command);

  // The warm trainer with this key (not empty), or null. One with another key is ended: whoever
  // asks is about to need its memory.
  std::unique_ptr<TrainerProcess> Take(const std::string& key);

  // Whether to ask a trainer to wait warm.
  bool wants_warm() const { return options_.seconds > 0; }
  // `process` has said that it waits, holding so much memory. Ends the one that was warm before.
  void KeepWarm(const std::string& key, std::unique_ptr<TrainerProcess> process,
                int64_t memory_bytes);
  // Ends the warm one, if there is one.
  void Drop();

 private:
  using Started = absl::StatusOr<std::unique_ptr<TrainerProcess>>;
  struct Order {
    TrainerCommand command;
    std::promise<Started> started;
  };

  void Main();

  const WarmOptions options_;
  const Clock& clock_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<Order> orders_ THAW_GUARDED_BY(mutex_);
  std::string key_ THAW_GUARDED_BY(mutex_);
  std::unique_ptr<TrainerProcess> warm_ THAW_GUARDED_BY(mutex_);
  int64_t until_ THAW_GUARDED_BY(mutex_) = 0;  // BootMicros
  bool closing_ THAW_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace thaw
