// Checkpoints on their way to the server, beside the training that goes on.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <thread>

#include "common/base/mutex.h"
#include "thaw/internal/trainer.pb.h"
#include "worker/agent/server_link.h"

namespace thaw {

// One thread that publishes directories in order and removes each when it is done with it. When the
// trainer is faster than the network, what waits and is neither newest nor best is dropped.
// Thread-safe.
class CheckpointUploads {
 public:
  // `on_failure` is called from the thread with what went wrong (never for a stale attempt).
  CheckpointUploads(ServerLink& link, std::string attempt_id,
                    std::function<void(const absl::Status&)> on_failure);
  // Abandons what is not done.
  ~CheckpointUploads();

  // Publishes it once `may_begin` says so; that is asked until it does and may wait a little.
  void Add(
      const internal::CheckpointReady& checkpoint, const std::string& directory,
      std::function<bool()> may_begin = [] { return true; });
  // Waits until everything is published or has failed, or `cancelled` says stop. OK if the newest
  // one is published.
  absl::Status Drain(const std::function<bool()>& cancelled);

 private:
  struct Item {
    internal::CheckpointReady checkpoint;
    std::string directory;
    std::function<bool()> may_begin;
  };
  void Main();

  ServerLink& link_;
  const std::string attempt_id_;
  const std::function<void(const absl::Status&)> on_failure_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<Item> waiting_ THAW_GUARDED_BY(mutex_);
  bool busy_ THAW_GUARDED_BY(mutex_) = false;
  bool stop_ THAW_GUARDED_BY(mutex_) = false;
  absl::Status newest_ THAW_GUARDED_BY(mutex_);  // how the last publication went
  std::thread thread_;
};

}  // namespace thaw
