#include "tests/client/fake_thaw_server.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/id.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/rpc/status.h"
#include "common/spec/artifact_digest.h"
#include "gtest/gtest.h"

namespace thaw {
namespace {

constexpr char kToken[] = "fake-access-token";
constexpr size_t kChunk = 1000;

grpc::Status NotFound(const std::string& id) {
  return ToGrpcStatus(absl::NotFoundError(absl::StrCat("\"", id, "\" does not exist")));
}

}  // namespace

FakeThawServer::FakeThawServer() {
  token_file_ = absl::StrCat(testing::TempDir(), "/fake_token_", RandomId());
  EXPECT_TRUE(WriteFileAtomically(token_file_, absl::StrCat(kToken, "\n"), 0600).ok());
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(static_cast<v1::FineTuneService::Service*>(this));
  builder.RegisterService(static_cast<v1::ArtifactService::Service*>(this));
  builder.RegisterService(static_cast<v1::WorkerService::Service*>(this));
  server_ = builder.BuildAndStart();
  address_ = absl::StrCat("127.0.0.1:", port);
}

FakeThawServer::~FakeThawServer() { server_->Shutdown(std::chrono::system_clock::now()); }

void FakeThawServer::FailNext(const std::string& method, int count, const absl::Status& status) {
  MutexLock lock(mutex_);
  faults_[method] = {count, status};
}

int FakeThawServer::CallsOf(const std::string& method) {
  MutexLock lock(mutex_);
  return calls_[method];
}

void FakeThawServer::AddJob(const v1::Job& job) {
  MutexLock lock(mutex_);
  jobs_[job.id()] = job;
}

v1::Job FakeThawServer::GetStoredJob(const std::string& id) {
  MutexLock lock(mutex_);
  return jobs_[id];
}

std::vector<v1::CreateJobRequest> FakeThawServer::created() {
  MutexLock lock(mutex_);
  return created_;
}

v1::CreateUploadRequest FakeThawServer::announced() {
  MutexLock lock(mutex_);
  return upload_;
}

void FakeThawServer::AddArtifact(const v1::Artifact& artifact,
                                 const std::map<std::string, std::string>& files) {
  MutexLock lock(mutex_);
  v1::Artifact& stored = artifacts_[artifact.id()] = artifact;
  for (const auto& [path, bytes] : files) {
    v1::File* file = stored.add_files();
    file->set_path(path);
    file->set_size(static_cast<int64_t>(bytes.size()));
    file->set_sha256(Sha256Hex(bytes));
    files_[absl::StrCat(artifact.id(), "/", path)] = bytes;
  }
}

std::string FakeThawServer::UploadedBytes(const std::string& path) {
  MutexLock lock(mutex_);
  return uploaded_[path];
}

grpc::Status FakeThawServer::Enter(grpc::ServerContext* context, const std::string& method) {
  MutexLock lock(mutex_);
  ++calls_[method];
  const auto token = context->client_metadata().find("authorization");
  if (token == context->client_metadata().end() ||
      token->second != absl::StrCat("Bearer ", kToken)) {
    return ToGrpcStatus(absl::UnauthenticatedError("unknown access token"));
  }
  Fault& fault = faults_[method];
  if (fault.left == 0) return grpc::Status::OK;
  --fault.left;
  return ToGrpcStatus(fault.status);
}

grpc::Status FakeThawServer::CreateJob(grpc::ServerContext* context,
                                       const v1::CreateJobRequest* request, v1::Job* job) {
  if (const auto status = Enter(context, "CreateJob"); !status.ok()) return status;
  MutexLock lock(mutex_);
  created_.push_back(*request);
  *job->mutable_spec() = request->spec();
  *job->mutable_resolved_spec() = request->spec();
  if (request->validate_only()) return grpc::Status::OK;
  job->set_id(absl::StrCat("job-", created_.size()));
  job->set_state(created_state);
  job->set_done(created_state >= v1::Job::SUCCEEDED);
  if (created_state == v1::Job::SUCCEEDED) {
    job->set_result("result-0");
    (*job->mutable_result_metrics())["accuracy"] = 0.5;
  }
  if (created_state == v1::Job::FAILED) {
    job->mutable_failure()->set_blame(v1::Failure::DATA);
    job->mutable_failure()->set_message("the labels are all alike");
  }
  jobs_[job->id()] = *job;
  return grpc::Status::OK;
}

grpc::Status FakeThawServer::GetJob(grpc::ServerContext* context, const v1::GetJobRequest* request,
                                    v1::Job* job) {
  if (const auto status = Enter(context, "GetJob"); !status.ok()) return status;
  MutexLock lock(mutex_);
  const auto it = jobs_.find(request->id());
  if (it == jobs_.end()) return NotFound(request->id());
  *job = it->second;
  return grpc::Status::OK;
}

grpc::Status FakeThawServer::ListJobs(grpc::ServerContext* context,
                                      const v1::ListJobsRequest* request,
                                      v1::ListJobsResponse* response) {
  if (const auto status = Enter(context, "ListJobs"); !status.ok()) return status;
  MutexLock lock(mutex_);
  // Two a page, whatever is asked for: a server may always give fewer.
  auto it = request->page_token().empty() ? jobs_.begin() : jobs_.find(request->page_token());
  for (; it != jobs_.end() && response->jobs_size() < 2; ++it) *response->add_jobs() = it->second;
  if (it != jobs_.end()) response->set_next_page_token(it->first);
  return grpc::Status::OK;
}

grpc::Status FakeThawServer::CancelJob(grpc::ServerContext* context,
                                       const v1::CancelJobRequest* request, v1::Job* job) {
  if (const auto status = Enter(context, "CancelJob"); !status.ok()) return status;
  MutexLock lock(mutex_);
  const auto it = jobs_.find(request->id());
  if (it == jobs_.end()) return NotFound(request->id());
  it->second.set_state(v1::Job::CANCELLED);
  it->second.set_done(true);
  *job = it->second;
  return grpc::Status::OK;
}

grpc::Status FakeThawServer::SteerJob(grpc::ServerContext* context,
                                      const v1::SteerJobRequest* request, v1::Job* job) {
  if (const auto status = Enter(context, "SteerJob"); !status.ok()) return status;
  MutexLock lock(mutex_);
  const auto it = jobs_.find(request->id());
  if (it == jobs_.end()) return NotFound(request->id());
  if (steer_requests_.insert(request->request_id()).second) {
    v1::SteeringRecord* record = it->second.add_steerings();
    record->set_number(it->second.steerings_size());
    *record->mutable_action() = request->action();
  }
  *job = it->second;
  return grpc::Status::OK;
}

grpc::Status FakeThawServer::ResumeJob(grpc::ServerContext* context, const v1::ResumeJobRequest*,
                                       v1::Job*) {
  if (const auto status = Enter(context, "ResumeJob"); !status.ok()) return status;
  return ToGrpcStatus(
      WithReason(absl::FailedPreconditionError("job-1 is RUNNING, not PAUSED"), "NOT_PAUSED"));
}

grpc::Status FakeThawServer::WatchJob(grpc::ServerContext* context,
                                      const v1::WatchJobRequest* request,
                                      grpc::ServerWriter<v1::WatchJobResponse>* writer) {
  if (const auto status = Enter(context, "WatchJob"); !status.ok()) return status;
  v1::WatchJobResponse snapshot;
  {
    MutexLock lock(mutex_);
    const auto it = jobs_.find(request->id());
    if (it == jobs_.end()) return NotFound(request->id());
    *snapshot.mutable_snapshot() = it->second;
  }
  writer->Write(snapshot);
  int sent = 0;
  for (const v1::Event& event : events) {
    if (event.sequence() < request->after_sequence()) continue;
    v1::WatchJobResponse message;
    *message.mutable_event() = event;
    writer->Write(message);
    if (event.sequence() > request->after_sequence() && ++sent == break_every) {
      return ToGrpcStatus(absl::UnavailableError("the server stops"));
    }
  }
  while (hold_watches && !context->IsCancelled()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return grpc::Status::OK;
}

grpc::Status FakeThawServer::ListJobEvents(grpc::ServerContext* context,
                                           const v1::ListJobEventsRequest* request,
                                           v1::ListJobEventsResponse* response) {
  if (const auto status = Enter(context, "ListJobEvents"); !status.ok()) return status;
  for (const v1::Event& event : events) {
    if (event.sequence() > request->after_sequence() && response->events_size() < 3) {
      *response->add_events() = event;
    }
  }
  return grpc::Status::OK;
}

grpc::Status FakeThawServer::ReadJobLog(grpc::ServerContext* context,
                                        const v1::ReadJobLogRequest* request,
                                        v1::ReadJobLogResponse* response) {
  if (const auto status = Enter(context, "ReadJobLog"); !status.ok()) return status;
  const auto offset = static_cast<size_t>(request->offset());
  response->set_content(log.substr(std::min(offset, log.size()), 7));
  response->set_next_offset(request->offset() + static_cast<int64_t>(response->content().size()));
  return grpc::Status::OK;
}

v1::Upload FakeThawServer::UploadNow() {
  v1::Upload upload;
  upload.set_id("upload-1");
  for (const v1::File& file : upload_.files()) {
    v1::UploadedFile* one = upload.add_files();
    one->set_path(file.path());
    one->set_committed_size(static_cast<int64_t>(uploaded_[file.path()].size()));
  }
  return upload;
}

grpc::Status FakeThawServer::QueryMetrics(grpc::ServerContext* context,
                                          const v1::QueryMetricsRequest* request,
                                          v1::QueryMetricsResponse* response) {
  if (grpc::Status status = Enter(context, "QueryMetrics"); !status.ok()) return status;
  for (const v1::MetricSeries& one : series) {
    const auto& names = request->names();
    if (names.empty() || std::find(names.begin(), names.end(), one.name()) != names.end()) {
      *response->add_series() = one;
    }
  }
  return grpc::Status::OK;
}

grpc::Status FakeThawServer::CreateUpload(grpc::ServerContext* context,
                                          const v1::CreateUploadRequest* request,
                                          v1::Upload* upload) {
  if (const auto status = Enter(context, "CreateUpload"); !status.ok()) return status;
  MutexLock lock(mutex_);
  upload_ = *request;
  uploaded_.clear();
  *upload = UploadNow();
  return grpc::Status::OK;
}

grpc::Status FakeThawServer::Write(grpc::ServerContext* context,
                                   grpc::ServerReader<v1::WriteRequest>* reader,
                                   v1::WriteResponse* response) {
  if (const auto status = Enter(context, "Write"); !status.ok()) return status;
  v1::WriteRequest request;
  std::string path;
  int64_t received = 0;
  while (reader->Read(&request)) {
    MutexLock lock(mutex_);
    if (path.empty()) {
      path = request.path();
      if (request.offset() != static_cast<int64_t>(uploaded_[path].size())) {
        return ToGrpcStatus(absl::OutOfRangeError("not the committed size"));
      }
    }
    std::string data = request.data();
    const int64_t room = break_transfers_after - received;
    const bool breaks = break_transfers_after > 0 && static_cast<int64_t>(data.size()) >= room;
    if (breaks) data.resize(static_cast<size_t>(room));
    uploaded_[path] += data;
    received += static_cast<int64_t>(data.size());
    if (breaks) return ToGrpcStatus(absl::UnavailableError("broken on purpose"));
  }
  MutexLock lock(mutex_);
  response->set_committed_size(static_cast<int64_t>(uploaded_[path].size()));
  return grpc::Status::OK;
}

grpc::Status FakeThawServer::QueryWrite(grpc::ServerContext* context, const v1::QueryWriteRequest*,
                                        v1::Upload* upload) {
  if (const auto status = Enter(context, "QueryWrite"); !status.ok()) return status;
  MutexLock lock(mutex_);
  *upload = UploadNow();
  return grpc::Status::OK;
}

grpc::Status FakeThawServer::FinishUpload(grpc::ServerContext* context,
                                          const v1::FinishUploadRequest*, v1::Artifact* artifact) {
  if (const auto status = Enter(context, "FinishUpload"); !status.ok()) return status;
  MutexLock lock(mutex_);
  for (const v1::File& file : upload_.files()) {
    if (Sha256Hex(uploaded_[file.path()]) != file.sha256()) {
      return ToGrpcStatus(absl::DataLossError(absl::StrCat(file.path(), " came damaged")));
    }
    artifact->set_size_bytes(artifact->size_bytes() + file.size());
  }
  const bool dataset = upload_.kind() == v1::Artifact::DATASET;
  artifact->set_id(dataset ? "dataset-up" : "model-up");
  artifact->set_kind(upload_.kind());
  artifact->set_display_name(upload_.display_name());
  artifact->set_digest(DigestOfFiles(upload_.files()));
  artifact->set_state(dataset ? v1::Artifact::VALIDATING : upload_state);
  if (dataset) {
    artifact->mutable_dataset()->set_text_column("text");
    artifact->mutable_dataset()->set_label_column("label");
    artifact->mutable_dataset()->set_bad_lines(static_cast<int64_t>(issues.size()));
  }
  artifacts_[artifact->id()] = *artifact;
  artifacts_[artifact->id()].set_state(upload_state);
  if (upload_state == v1::Artifact::REJECTED) {
    artifacts_[artifact->id()].set_state_reason(absl::StrCat(issues.size(), " bad lines"));
  }
  return grpc::Status::OK;
}

grpc::Status FakeThawServer::GetArtifact(grpc::ServerContext* context,
                                         const v1::GetArtifactRequest* request,
                                         v1::Artifact* artifact) {
  if (const auto status = Enter(context, "GetArtifact"); !status.ok()) return status;
  MutexLock lock(mutex_);
  const auto it = artifacts_.find(request->id());
  if (it == artifacts_.end()) return NotFound(request->id());
  *artifact = it->second;
  return grpc::Status::OK;
}

grpc::Status FakeThawServer::ListArtifacts(grpc::ServerContext* context,
                                           const v1::ListArtifactsRequest* request,
                                           v1::ListArtifactsResponse* response) {
  if (const auto status = Enter(context, "ListArtifacts"); !status.ok()) return status;
  MutexLock lock(mutex_);
  for (const auto& [id, artifact] : artifacts_) {
    if (artifact.kind() == request->kind()) *response->add_artifacts() = artifact;
  }
  return grpc::Status::OK;
}

grpc::Status FakeThawServer::Read(grpc::ServerContext* context, const v1::ReadRequest* request,
                                  grpc::ServerWriter<v1::ReadResponse>* writer) {
  if (const auto status = Enter(context, "Read"); !status.ok()) return status;
  std::string bytes;
  {
    MutexLock lock(mutex_);
    bytes = files_[absl::StrCat(request->id(), "/", request->path())];
  }
  if (std::exchange(damage_next_read, false)) bytes[bytes.size() / 2] ^= 1;
  int64_t sent = 0;
  for (size_t at = static_cast<size_t>(request->offset()); at < bytes.size(); at += kChunk) {
    v1::ReadResponse response;
    response.set_data(bytes.substr(at, kChunk));
    writer->Write(response);
    sent += static_cast<int64_t>(response.data().size());
    if (break_transfers_after > 0 && sent >= break_transfers_after) {
      return ToGrpcStatus(absl::UnavailableError("broken on purpose"));
    }
  }
  return grpc::Status::OK;
}

grpc::Status FakeThawServer::DeleteArtifact(grpc::ServerContext* context,
                                            const v1::DeleteArtifactRequest* request,
                                            v1::DeleteArtifactResponse*) {
  if (const auto status = Enter(context, "DeleteArtifact"); !status.ok()) return status;
  MutexLock lock(mutex_);
  return artifacts_.erase(request->id()) > 0 ? grpc::Status::OK : NotFound(request->id());
}

grpc::Status FakeThawServer::GetDatasetReport(grpc::ServerContext* context,
                                              const v1::GetDatasetReportRequest*,
                                              grpc::ServerWriter<v1::DatasetIssue>* writer) {
  if (const auto status = Enter(context, "GetDatasetReport"); !status.ok()) return status;
  for (const v1::DatasetIssue& issue : issues) writer->Write(issue);
  return grpc::Status::OK;
}

grpc::Status FakeThawServer::ListWorkers(grpc::ServerContext* context,
                                         const v1::ListWorkersRequest*,
                                         v1::ListWorkersResponse* response) {
  if (const auto status = Enter(context, "ListWorkers"); !status.ok()) return status;
  response->mutable_workers()->Add(workers.begin(), workers.end());
  return grpc::Status::OK;
}

std::vector<v1::Event> TrainingHistory(int steps) {
  std::vector<v1::Event> history;
  const auto add = [&] {
    history.emplace_back().set_sequence(static_cast<int64_t>(history.size()));
    return &history.back();
  };
  for (const v1::Job::State state : {v1::Job::QUEUED, v1::Job::STARTING, v1::Job::RUNNING}) {
    add()->mutable_state_change()->set_to(state);
  }
  v1::PhaseStart* phase = add()->mutable_phase_start();
  phase->set_phase(1);
  phase->set_name("head");
  phase->set_steps(steps);
  phase->set_trainable_parameters(10);
  phase->set_total_parameters(1000);
  for (int step = 1; step <= steps; ++step) {
    v1::MetricPoint* point = add()->mutable_metric_points()->add_points();
    point->set_step(step);
    v1::MetricValue* loss = point->add_values();
    loss->set_name("loss");
    loss->set_value(1.0 / step);
  }
  v1::EvaluationEnd* evaluation = add()->mutable_evaluation_end();
  evaluation->set_step(steps);
  (*evaluation->mutable_values())["accuracy"] = 0.815;
  evaluation->set_best(true);
  add()->mutable_state_change()->set_to(v1::Job::SUCCEEDED);
  return history;
}

}  // namespace thaw
