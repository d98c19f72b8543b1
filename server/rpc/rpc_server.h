// The gRPC face of the server: credentials, limits, health, reflection and the three services on
// one port.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "server/artifacts/artifact_store.h"
#include "server/artifacts/attempt_logs.h"
#include "server/jobs/store.h"
#include "server/metrics/service_metrics.h"
#include "server/scheduling/dispatcher.h"

namespace thaw {

struct RpcServerOptions {
  std::string listen = "127.0.0.1:7433";  // host:port or unix:path; port 0 takes a free one
  std::string data_dir;                   // holds the access tokens
  std::string owners_file;                // hashes of owners' tokens; may be empty
  // PEM files. Beyond loopback the first two are required, and the third too unless behind_proxy.
  std::string tls_certificate;
  std::string tls_key;
  std::string tls_client_ca;
  // A proxy that bounds headers stands in front, so that TLS without client certificates will do.
  bool behind_proxy = false;
  double heartbeat_seconds = 15;
  // Uploads and downloads at once; each holds a thread.
  int max_transfers = 64;
  double stall_seconds = 60;
  int64_t max_queued_jobs = 100'000;
  // How long calls may take to end once the server stops.
  double shutdown_seconds = 5;
};

class RpcServer {
 public:
  // Listens, not yet SERVING. What it is given outlives it. Fails with one line that a user can act
  // on: an address that is taken, files that cannot be read, TLS that is missing.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(
      const RpcServerOptions& options, Store& store, Dispatcher& dispatcher,
      ArtifactStore& artifacts, AttemptLogs& logs, ServiceMetrics& metrics, const Clock& clock);
  ~RpcServer();

  // The port; 0 for a unix socket.
  int port() const;
  // Health answers SERVING from here on.
  void SetServing();
  // Reads the files of access tokens again.
  absl::Status ReloadTokens();
  // In order: health NOT_SERVING, no new jobs, watches end with UNAVAILABLE, held Syncs are
  // answered, other calls may end. Then no call is left. Again: nothing.
  void Stop();

  // The names of all methods, as ServiceMetrics wants them.
  static std::vector<std::string> RpcNames();

 private:
  class Impl;
  explicit RpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace thaw
