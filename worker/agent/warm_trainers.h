// Trainers between two predictions on the same model, with the model in memory.
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
  double seconds = 60;  // how long a trainer waits for another prediction; 0: none is kept
  int64_t most_bytes = int64_t{8} << 30;  // one that holds more memory is not kept
};

// Starts all trainers of a worker, on a thread of its own, for the kernel ends a trainer with the
// thread that started it; keeps at most one that waits. It never counts as work: whatever starts
// next, without it or with it, comes first. Thread-safe; outlives every trainer that it started.
class WarmTrainers {
 public:
  // `clock` must outlive it.
  WarmTrainers(const WarmOptions& options, const Clock& clock);
  ~WarmTrainers();

  absl::StatusOr<std::unique_ptr<TrainerProcess>> Start(const TrainerCommand& command);

  // The trainer that waits with this key (not empty), or null. If another one waits, it is ended:
  // whoever asks is about to need its memory.
  std::unique_ptr<TrainerProcess> Take(const std::string& key);

  // Whether to ask a trainer to wait.
  bool keeps() const { return options_.seconds > 0; }
  // `process` has said that it waits, holding so much memory. Ends the one that waited before.
  void Keep(const std::string& key, std::unique_ptr<TrainerProcess> process, int64_t memory_bytes);
  // Ends the one that waits, if there is one.
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
  std::unique_ptr<TrainerProcess> waiting_ THAW_GUARDED_BY(mutex_);
  int64_t until_ THAW_GUARDED_BY(mutex_) = 0;  // BootMicros
  bool closing_ THAW_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace thaw
