// WatchJob: every watcher is a cursor into the store. A commit only marks the watchers of its job;
// one thread reads what they lack, a batch at a time, and the next batch is read when the last has
// gone out. So a slow watcher lags and holds up nobody, and an absent one costs nothing but its
// place in a list.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <thread>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "grpcpp/support/server_callback.h"
#include "server/jobs/store.h"
#include "server/metrics/service_metrics.h"
#include "server/rpc/authorizer.h"
#include "server/scheduling/dispatcher.h"
#include "thaw/v1/fine_tune_service.pb.h"

namespace thaw {

struct WatchOptions {
  double heartbeat_seconds = 15;
  // More are RESOURCE_EXHAUSTED.
  size_t max_streams = 5000;
  // More of one owner are, too; an admin may have all.
  size_t max_streams_per_owner = 1000;
  // How long Stop lets a message that is on its way go out before it cancels the call.
  double stop_seconds = 1;
};

// Thread-safe.
class WatchStreams {
 public:
  WatchStreams(Store& store, const Dispatcher& dispatcher, ServiceMetrics& metrics,
               const Clock& clock, WatchOptions options);
  // Stop has returned and the server is shut down.
  ~WatchStreams();

  // The reactor of one call; it deletes itself. Never blocks.
  grpc::ServerWriteReactor<v1::WatchJobResponse>* Watch(const absl::StatusOr<Caller>& caller,
                                                        grpc::CallbackServerContext* context,
                                                        const v1::WatchJobRequest& request);

  // Ends every stream, and later ones at once, with UNAVAILABLE. Returns when all are gone.
  void Stop();

 private:
  class Stream;
  using StreamPtr = std::shared_ptr<Stream>;
  void Enqueue(const StreamPtr& stream);
  void Remove(const StreamPtr& stream);
  void Work();

  Store& store_;
  const Dispatcher& dispatcher_;
  ServiceMetrics& metrics_;
  const Clock& clock_;
  const WatchOptions options_;
  Mutex mutex_;  // taken after a stream's own
  CondVar changed_;
  bool stopping_ THAW_GUARDED_BY(mutex_) = false;
  std::set<StreamPtr> streams_ THAW_GUARDED_BY(mutex_);
  std::deque<StreamPtr> ready_ THAW_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace thaw
