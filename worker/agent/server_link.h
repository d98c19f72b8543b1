// What the agent asks of the server.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "thaw/v1/artifact_service.pb.h"
#include "thaw/v1/worker_service.pb.h"

namespace thaw {

// Thread-safe. Two of them: gRPC's and the fake of the tests.
class ServerLink {
 public:
  virtual ~ServerLink() = default;
  // Blocks while the server holds the call, at most 40 s.
  virtual absl::StatusOr<v1::SyncResponse> Sync(const v1::SyncRequest& request) = 0;
  // Ends the Sync that is under way, or the next one if there is none, with CANCELLED.
  virtual void CancelSync() = 0;
  // Brings every file of an input of the attempt to `directory`, verified.
  virtual absl::Status Download(const std::string& attempt_id, const v1::Artifact& artifact,
                                const std::string& directory,
                                const std::function<bool()>& cancelled) = 0;
  // Publishes `directory` as the attempt's checkpoint or result, whichever `finish` says.
  virtual absl::Status Publish(const std::string& attempt_id, const std::string& directory,
                               const v1::FinishUploadRequest& finish,
                               const std::function<bool()>& cancelled) = 0;
};

struct ServerLinkOptions {
  std::string address;
  std::string token_file;  // of the worker access token
  std::string ca_file, certificate_file, key_file;
};
absl::StatusOr<std::unique_ptr<ServerLink>> ConnectToServer(const ServerLinkOptions& options);

}  // namespace thaw
