// Submits the JobSpec in a JSON file, prints the loss as it comes, fetches the result:
//   thaw_example_submit job.json my-model
#include <cstdio>
#include <iostream>

#include "client/thaw_client.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "common/spec/spec_json.h"

namespace {

absl::Status SubmitWatchAndFetch(const std::string& spec_path, const std::string& directory) {
  THAW_ASSIGN_OR_RETURN(const auto client, thaw::ThawClient::Connect({}));
  THAW_ASSIGN_OR_RETURN(const std::string json, thaw::ReadFile(spec_path));
  thaw::v1::CreateJobRequest request;
  THAW_ASSIGN_OR_RETURN(*request.mutable_spec(), thaw::ParseSpecJson(json));
  THAW_ASSIGN_OR_RETURN(thaw::v1::Job job, client->jobs().CreateJob(request));

  THAW_RETURN_IF_ERROR(client->jobs().WatchJob(job.id(), {}, [](const auto& message) {
    for (const auto& point : message.event().metric_points().points()) {
      for (const auto& value : point.values()) {
        if (value.name() == "loss") std::printf("%ld %f\n", long{point.step()}, value.value());
      }
    }
    return true;
  }));

  THAW_ASSIGN_OR_RETURN(job, client->jobs().GetJob(job.id()));
  if (job.result().empty()) return absl::AbortedError(job.state_reason());
  THAW_ASSIGN_OR_RETURN(const thaw::v1::Artifact result,
                        client->artifacts().GetArtifact(job.result()));
  return client->artifacts().Fetch(result, directory, nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: thaw_example_submit JOB_SPEC_FILE DIRECTORY\n";
    return 2;
  }
  const absl::Status status = SubmitWatchAndFetch(argv[1], argv[2]);
  if (!status.ok()) std::cerr << status.message() << "\n";
  return status.ok() ? 0 : 1;
}
