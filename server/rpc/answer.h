// What every handler does around its own lines: time, count, translate.
#pragma once

#include <chrono>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "grpcpp/support/status.h"
#include "server/metrics/service_metrics.h"

namespace thaw {

// Measures one call from its construction to Finish.
class CallTimer {
 public:
  CallTimer(ServiceMetrics& metrics, std::string rpc)
      : metrics_(metrics), rpc_(std::move(rpc)), start_(std::chrono::steady_clock::now()) {}
  // Counts the call and gives what the caller is told. Once.
  grpc::Status Finish(const absl::Status& status) const;

 private:
  ServiceMetrics& metrics_;
  const std::string rpc_;
  const std::chrono::steady_clock::time_point start_;
};

// Runs the handler `body`, which gives an absl::Status.
template <typename Body>
grpc::Status Answer(ServiceMetrics& metrics, const char* rpc, Body body) {
  const CallTimer timer(metrics, rpc);
  return timer.Finish(body());
}

// The value of `result` goes to `response`.
template <typename T, typename Response>
absl::Status Fill(T result, Response* response) {
  if (!result.ok()) return result.status();
  *response = *std::move(result);
  return absl::OkStatus();
}

}  // namespace thaw
