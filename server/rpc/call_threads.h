// Bounds how calls hold the server's threads. Every call but WatchJob, Sync and health holds one
// until its answer has gone out, and a peer that grants no window or never ends its stream could
// keep them all.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_interceptor.h"

namespace thaw {

struct CallThreadsOptions {
  int max_per_caller = 128;
  // Reflection needs no credential, so it gets few threads, and each for stall_seconds only.
  int max_reflections = 4;
  // How long an answer may take to go out before its call is cancelled.
  double stall_seconds = 60;
};

// Thread-safe. Outlives the server that it was given to.
class CallThreads {
 public:
  CallThreads(CallThreadsOptions options, const Clock& clock);
  ~CallThreads();

  // Shows the server's calls to this object. For one server.
  std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> Observer();

  // Says whose call this is; again: nothing. RESOURCE_EXHAUSTED when the caller holds its share.
  absl::Status Attribute(const grpc::ServerContextBase& context, const std::string& caller);

 private:
  class Interceptor;
  class Factory;
  struct Call {
    int64_t number = 0;
    bool reflection = false;
    std::string caller;         // empty until attributed
    int64_t bounded_since = 0;  // 0: its handler works, for as long as that takes
  };

  // False if the call must not begin.
  bool Begin(grpc::ServerContextBase* context, int64_t number, bool reflection);
  void Answering(grpc::ServerContextBase* context, int64_t number);
  void End(grpc::ServerContextBase* context, int64_t number);
  void CancelStalled();

  const CallThreadsOptions options_;
  const Clock& clock_;
  Mutex mutex_;
  CondVar stopped_;
  bool stopping_ THAW_GUARDED_BY(mutex_) = false;
  int64_t last_number_ THAW_GUARDED_BY(mutex_) = 0;
  int reflections_ THAW_GUARDED_BY(mutex_) = 0;
  std::map<const grpc::ServerContextBase*, Call> calls_ THAW_GUARDED_BY(mutex_);
  std::map<std::string, int> by_caller_ THAW_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace thaw
