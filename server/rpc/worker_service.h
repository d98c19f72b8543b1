#pragma once

#include "server/rpc/server_parts.h"
#include "server/rpc/sync_calls.h"
#include "thaw/v1/worker_service.grpc.pb.h"

namespace thaw {

// WorkerService as worker_service.proto says. Sync is a reactor.
class WorkerServiceImpl final
    : public v1::WorkerService::WithCallbackMethod_Sync<v1::WorkerService::Service> {
 public:
  WorkerServiceImpl(const ServerParts& parts, SyncCalls& syncs) : parts_(parts), syncs_(syncs) {}

  grpc::ServerUnaryReactor* Sync(grpc::CallbackServerContext* context,
                                 const v1::SyncRequest* request,
                                 v1::SyncResponse* response) override;
  grpc::Status ListWorkers(grpc::ServerContext* context, const v1::ListWorkersRequest* request,
                           v1::ListWorkersResponse* response) override;
  grpc::Status DrainWorker(grpc::ServerContext* context, const v1::DrainWorkerRequest* request,
                           v1::WorkerStatus* response) override;

 private:
  const ServerParts& parts_;
  SyncCalls& syncs_;
};

}  // namespace thaw
