// A Thaw server in memory, with faults on demand: what the client is tested against.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/mutex.h"
#include "grpcpp/grpcpp.h"
#include "thaw/v1/artifact_service.grpc.pb.h"
#include "thaw/v1/fine_tune_service.grpc.pb.h"
#include "thaw/v1/worker_service.grpc.pb.h"

namespace thaw {

// Listens on a free loopback port while it lives. Its fields are set before the call that they are
// for; thread-safe where a method is given.
class FakeThawServer final : public v1::FineTuneService::Service,
                             public v1::ArtifactService::Service,
                             public v1::WorkerService::Service {
 public:
  FakeThawServer();
  ~FakeThawServer() override;

  const std::string& address() const { return address_; }
  // A file with the token that it takes.
  const std::string& token_file() const { return token_file_; }

  // The next `count` calls of `method` fail with `status` before they do anything.
  void FailNext(const std::string& method, int count, const absl::Status& status);
  int CallsOf(const std::string& method);

  void AddJob(const v1::Job& job);
  v1::Job GetStoredJob(const std::string& id);
  std::vector<v1::CreateJobRequest> created();
  void AddArtifact(const v1::Artifact& artifact,
                   const std::map<std::string, std::string>& files = {});
  std::string UploadedBytes(const std::string& path);
  // The newest upload as it was announced.
  v1::CreateUploadRequest announced();

  // What a watch of any job sends: all events with a greater sequence. After `break_every` messages
  // (0: never) the stream ends with UNAVAILABLE; a connection repeats one event that was sent
  // before.
  std::vector<v1::Event> events;
  int break_every = 0;
  // Keeps watches open after the last event, until they are cancelled.
  bool hold_watches = false;
  std::string log;
  std::vector<v1::MetricSeries> series;
  std::vector<v1::WorkerStatus> workers;
  std::vector<v1::DatasetIssue> issues;
  // The state of an upload once it has been finished and looked at; VALIDATING is shown first.
  v1::Artifact::State upload_state = v1::Artifact::READY;
  // What a job that is created becomes, when not validate_only.
  v1::Job::State created_state = v1::Job::QUEUED;
  // Write and Read end with UNAVAILABLE after so many bytes; 0: never.
  int64_t break_transfers_after = 0;
  // Flips a byte of what Read gives, once.
  bool damage_next_read = false;

  grpc::Status CreateJob(grpc::ServerContext*, const v1::CreateJobRequest*, v1::Job*) override;
  grpc::Status GetJob(grpc::ServerContext*, const v1::GetJobRequest*, v1::Job*) override;
  grpc::Status ListJobs(grpc::ServerContext*, const v1::ListJobsRequest*,
                        v1::ListJobsResponse*) override;
  grpc::Status CancelJob(grpc::ServerContext*, const v1::CancelJobRequest*, v1::Job*) override;
  grpc::Status SteerJob(grpc::ServerContext*, const v1::SteerJobRequest*, v1::Job*) override;
  grpc::Status ResumeJob(grpc::ServerContext*, const v1::ResumeJobRequest*, v1::Job*) override;
  grpc::Status WatchJob(grpc::ServerContext*, const v1::WatchJobRequest*,
                        grpc::ServerWriter<v1::WatchJobResponse>*) override;
  grpc::Status ListJobEvents(grpc::ServerContext*, const v1::ListJobEventsRequest*,
                             v1::ListJobEventsResponse*) override;
  grpc::Status ReadJobLog(grpc::ServerContext*, const v1::ReadJobLogRequest*,
                          v1::ReadJobLogResponse*) override;
  grpc::Status QueryMetrics(grpc::ServerContext*, const v1::QueryMetricsRequest*,
                            v1::QueryMetricsResponse*) override;
  grpc::Status CreateUpload(grpc::ServerContext*, const v1::CreateUploadRequest*,
                            v1::Upload*) override;
  grpc::Status Write(grpc::ServerContext*, grpc::ServerReader<v1::WriteRequest>*,
                     v1::WriteResponse*) override;
  grpc::Status QueryWrite(grpc::ServerContext*, const v1::QueryWriteRequest*, v1::Upload*) override;
  grpc::Status FinishUpload(grpc::ServerContext*, const v1::FinishUploadRequest*,
                            v1::Artifact*) override;
  grpc::Status GetArtifact(grpc::ServerContext*, const v1::GetArtifactRequest*,
                           v1::Artifact*) override;
  grpc::Status ListArtifacts(grpc::ServerContext*, const v1::ListArtifactsRequest*,
                             v1::ListArtifactsResponse*) override;
  grpc::Status Read(grpc::ServerContext*, const v1::ReadRequest*,
                    grpc::ServerWriter<v1::ReadResponse>*) override;
  grpc::Status DeleteArtifact(grpc::ServerContext*, const v1::DeleteArtifactRequest*,
                              v1::DeleteArtifactResponse*) override;
  grpc::Status GetDatasetReport(grpc::ServerContext*, const v1::GetDatasetReportRequest*,
                                grpc::ServerWriter<v1::DatasetIssue>*) override;
  grpc::Status ListWorkers(grpc::ServerContext*, const v1::ListWorkersRequest*,
                           v1::ListWorkersResponse*) override;

 private:
  struct Fault {
    int left = 0;
    absl::Status status;
  };
  // Counts the call; refuses a wrong token and what FailNext asked for.
  grpc::Status Enter(grpc::ServerContext* context, const std::string& method);
  v1::Upload UploadNow() THAW_REQUIRES(mutex_);

  std::string address_;
  std::string token_file_;
  std::unique_ptr<grpc::Server> server_;

  Mutex mutex_;
  std::map<std::string, Fault> faults_ THAW_GUARDED_BY(mutex_);
  std::map<std::string, int> calls_ THAW_GUARDED_BY(mutex_);
  std::map<std::string, v1::Job> jobs_ THAW_GUARDED_BY(mutex_);
  std::set<std::string> steer_requests_ THAW_GUARDED_BY(mutex_);
  std::vector<v1::CreateJobRequest> created_ THAW_GUARDED_BY(mutex_);
  std::map<std::string, v1::Artifact> artifacts_ THAW_GUARDED_BY(mutex_);
  std::map<std::string, std::string> files_ THAW_GUARDED_BY(mutex_);  // "<artifact>/<path>"
  v1::CreateUploadRequest upload_ THAW_GUARDED_BY(mutex_);
  std::map<std::string, std::string> uploaded_ THAW_GUARDED_BY(mutex_);  // by path
};

// A finished job's history: QUEUED, STARTING, RUNNING, a phase, `steps` losses, an evaluation,
// SUCCEEDED.
std::vector<v1::Event> TrainingHistory(int steps);

}  // namespace thaw
