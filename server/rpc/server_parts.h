// What the adapters call. Owned by RpcServer's caller or by RpcServer; outlives the services.
#pragma once

#include <atomic>

#include "server/artifacts/artifact_store.h"
#include "server/artifacts/attempt_logs.h"
#include "server/jobs/store.h"
#include "server/metrics/service_metrics.h"
#include "server/rpc/authorizer.h"
#include "server/rpc/transfers.h"
#include "server/scheduling/dispatcher.h"

namespace thaw {

struct ServerParts {
  Store& store;
  Dispatcher& dispatcher;
  ArtifactStore& artifacts;
  AttemptLogs& logs;
  ServiceMetrics& metrics;
  const Authorizer& authorizer;
  Transfers& transfers;
  // False once the server stops: no new jobs.
  const std::atomic<bool>& accepting;
  int64_t max_queued_jobs;
};

}  // namespace thaw
