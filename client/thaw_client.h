// Thaw's client library: jobs, artifacts and workers of one server.
//
//   absl::StatusOr<std::unique_ptr<thaw::ThawClient>> client = thaw::ThawClient::Connect({});
//   absl::StatusOr<thaw::v1::Job> job = (*client)->jobs().GetJob("job-0123456789abcdef");
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "client/artifact_client.h"
#include "client/connection.h"
#include "client/job_client.h"

namespace thaw {

// Thread-safe; must outlive its calls.
class ThawClient {
 public:
  // Reads the access token; the connection itself is made by the first call. FAILED_PRECONDITION
  // with the remedy if there is no token to be found, or one would be sent where others can read
  // it.
  static absl::StatusOr<std::unique_ptr<ThawClient>> Connect(const ConnectionOptions& options);

  JobClient& jobs() { return jobs_; }
  ArtifactClient& artifacts() { return artifacts_; }
  // As it was found: "host:port".
  const std::string& server() const { return server_; }

 private:
  explicit ThawClient(std::shared_ptr<Caller> caller);

  const std::string server_;
  JobClient jobs_;
  ArtifactClient artifacts_;
};

}  // namespace thaw
