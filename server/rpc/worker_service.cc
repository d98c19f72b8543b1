#include "server/rpc/worker_service.h"

#include "common/base/status.h"
#include "server/rpc/answer.h"

namespace thaw {

grpc::ServerUnaryReactor* WorkerServiceImpl::Sync(grpc::CallbackServerContext* context,
                                                  const v1::SyncRequest* request,
                                                  v1::SyncResponse* response) {
  return syncs_.Sync(parts_.authorizer.Authorize(*context, "Sync").status(), request, response);
}

grpc::Status WorkerServiceImpl::ListWorkers(grpc::ServerContext* context,
                                            const v1::ListWorkersRequest* request,
                                            v1::ListWorkersResponse* response) {
  return Answer(parts_.metrics, "ListWorkers", [&]() -> absl::Status {
    THAW_RETURN_IF_ERROR(parts_.authorizer.Authorize(*context, "ListWorkers").status());
    for (v1::WorkerStatus& worker : parts_.dispatcher.ListWorkers()) {
      *response->add_workers() = std::move(worker);
    }
    return absl::OkStatus();
  });
}

grpc::Status WorkerServiceImpl::DrainWorker(grpc::ServerContext* context,
                                            const v1::DrainWorkerRequest* request,
                                            v1::WorkerStatus* response) {
  return Answer(parts_.metrics, "DrainWorker", [&]() -> absl::Status {
    THAW_RETURN_IF_ERROR(parts_.authorizer.Authorize(*context, "DrainWorker").status());
    return Fill(parts_.dispatcher.DrainWorker(request->worker()), response);
  });
}

}  // namespace thaw
