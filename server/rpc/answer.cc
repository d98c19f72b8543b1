#include "server/rpc/answer.h"

#include "common/rpc/status.h"

namespace thaw {

grpc::Status CallTimer::Finish(const absl::Status& status) const {
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start_;
  metrics_.RecordRpc(rpc_, absl::StatusCodeToString(status.code()), seconds.count());
  return ToGrpcStatus(status);
}

}  // namespace thaw
