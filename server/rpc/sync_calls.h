// WorkerService.Sync: hands each call to the dispatcher, which answers when it likes. What trainers
// wrote is appended to their logs first, on a thread of its own, because reactions must not wait
// for a disk.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "grpcpp/support/server_callback.h"
#include "server/artifacts/attempt_logs.h"
#include "server/jobs/store.h"
#include "server/metrics/service_metrics.h"
#include "server/rpc/authorizer.h"
#include "server/scheduling/dispatcher.h"
#include "thaw/v1/worker_service.pb.h"

namespace thaw {

// Thread-safe. Dispatcher::Stop ends the calls that hang; destroy this after the server is shut
// down.
class SyncCalls {
 public:
  SyncCalls(Store& store, Dispatcher& dispatcher, AttemptLogs& logs, ServiceMetrics& metrics);
  ~SyncCalls();

  // The reactor of one call; it deletes itself. Never blocks.
  grpc::ServerUnaryReactor* Sync(const absl::Status& authorized, const v1::SyncRequest* request,
                                 v1::SyncResponse* response);

 private:
  class Call;
  using CallPtr = std::shared_ptr<Call>;
  struct LogPlace {
    std::string job;
    std::string worker;
    int attempt = 0;
  };
  void Work();
  // Bytes of an attempt's output that the server has; an error if it is not that worker's.
  absl::StatusOr<int64_t> AppendLog(const std::string& worker, const v1::AttemptReport& report);

  Store& store_;
  Dispatcher& dispatcher_;
  AttemptLogs& logs_;
  ServiceMetrics& metrics_;
  std::map<std::string, LogPlace> places_;  // by attempt id; of the thread
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ THAW_GUARDED_BY(mutex_) = false;
  std::deque<CallPtr> with_logs_ THAW_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace thaw
