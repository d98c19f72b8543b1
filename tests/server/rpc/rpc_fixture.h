// A whole server in this process, on a loopback port of its own, with two owners (ann, bob), an
// admin and a worker, and calls to it in one line.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/id.h"
#include "common/base/sha256.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "grpcpp/client_context.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "server/artifacts/artifact_store.h"
#include "server/rpc/rpc_server.h"
#include "tests/server/artifacts/artifact_fixture.h"
#include "thaw/v1/artifact_service.grpc.pb.h"
#include "thaw/v1/fine_tune_service.grpc.pb.h"
#include "thaw/v1/worker_service.grpc.pb.h"

namespace thaw {

inline std::string OneLineDataset(int rows = 20) {
  std::string bytes;
  for (int i = 0; i < rows; ++i) {
    absl::StrAppend(&bytes, "{\"text\":\"row ", i, "\",\"label\":", i % 2, "}\n");
  }
  return bytes;
}

class RpcFixture {
 public:
  explicit RpcFixture(RpcServerOptions options = {}) : options_(std::move(options)) {
    options_.listen = "127.0.0.1:0";
    options_.data_dir = directory_.path();
    options_.owners_file = directory_.path() + "/owners";
    options_.shutdown_seconds = 2;
    std::string owners = "# owners of the tests\n";
    for (const char* owner : {"ann", "bob"}) {
      tokens_[owner] = absl::StrCat(owner, "-", RandomId());
      absl::StrAppend(&owners, owner, ":", Sha256Hex(tokens_[owner]), "\n");
    }
    EXPECT_TRUE(WriteFileAtomically(options_.owners_file, owners, 0600).ok());
    Start();
    for (const auto& [name, file] : std::map<std::string, std::string>{
             {"admin", "access_token"}, {"worker", "worker_token"}}) {
      const auto token = ReadAccessToken(directory_.path() + "/" + file);
      EXPECT_TRUE(token.ok()) << token.status();
      tokens_[name] = *token;
    }
  }
  ~RpcFixture() { Stop(); }

  void Start() {
    StoreOptions store_options;
    store_options.data_dir = directory_.path();
    store_ = *Store::Open(store_options);
    ArtifactStoreOptions artifact_options;
    artifact_options.directory = directory_.path() + "/artifacts";
    artifact_options.min_free_bytes = 0;
    artifacts_ = *ArtifactStore::Open(artifact_options, *store_, RealClock());
    logs_ = std::make_unique<AttemptLogs>(directory_.path() + "/logs");
    metrics_ = std::make_unique<ServiceMetrics>(RpcServer::RpcNames());
    DispatcherOptions dispatcher_options;
    dispatcher_options.idle_hang_seconds = 0.2;
    dispatcher_ = std::make_unique<Dispatcher>(*store_, RealClock(), dispatcher_options);
    ASSERT_TRUE(dispatcher_->Start().ok());
    auto server = RpcServer::Start(options_, *store_, *dispatcher_, *artifacts_, *logs_, *metrics_,
                                   RealClock());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    server_->SetServing();
    channel_ = *CreateChannel(absl::StrCat("127.0.0.1:", server_->port()), {});
    jobs_ = v1::FineTuneService::NewStub(channel_);
    files_ = v1::ArtifactService::NewStub(channel_);
    workers_ = v1::WorkerService::NewStub(channel_);
  }
  // One more server over the same parts.
  absl::StatusOr<std::unique_ptr<RpcServer>> StartAnother(const RpcServerOptions& options) {
    return RpcServer::Start(options, *store_, *dispatcher_, *artifacts_, *logs_, *metrics_,
                            RealClock());
  }
  void Stop() {
    server_.reset();
    dispatcher_.reset();
    artifacts_.reset();
    store_.reset();
  }

  const std::string& token(const std::string& who) { return tokens_[who]; }
  std::unique_ptr<grpc::ClientContext> As(const std::string& who, const std::string& attempt = "") {
    auto context = std::make_unique<grpc::ClientContext>();
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    if (!who.empty()) AddAccessToken(tokens_[who], context.get());
    if (!attempt.empty()) context->AddMetadata("thaw-attempt", attempt);
    return context;
  }
  // One blocking call: Call(*jobs(), &Stub::GetJob, "ann", request).
  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Call(
      Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
      const std::string& who, const Request& request, const std::string& attempt = "") {
    Response response;
    const absl::Status status =
        FromGrpcStatus((stub.*method)(As(who, attempt).get(), request, &response));
    if (!status.ok()) return status;
    return response;
  }

  // Any method by its path ("/package.Service/Method"), with one message; the first answer if one
  // came. A stream that has answered is cancelled.
  absl::Status CallRaw(const std::string& path, const std::string& message,
                       const std::string& token, std::optional<std::string>* answer) {
    grpc::GenericStub stub(channel_);
    grpc::CompletionQueue queue;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    if (!token.empty()) AddAccessToken(token, &context);
    const auto call = stub.PrepareCall(&context, path, &queue);
    const auto wait = [&] {
      void* tag = nullptr;
      bool ok = false;
      return queue.Next(&tag, &ok) && ok;
    };
    call->StartCall(nullptr);
    wait();
    const grpc::Slice slice(message);
    call->Write(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions().set_last_message(), nullptr);
    wait();
    grpc::ByteBuffer response;
    call->Read(&response, nullptr);
    if (wait()) {
      grpc::Slice bytes;
      EXPECT_TRUE(response.DumpToSingleSlice(&bytes).ok());
      answer->emplace(reinterpret_cast<const char*>(bytes.begin()), bytes.size());
      grpc::ByteBuffer more;
      call->Read(&more, nullptr);
      if (wait()) context.TryCancel();
    }
    grpc::Status status;
    call->Finish(&status, nullptr);
    wait();
    queue.Shutdown();
    while (wait()) {
    }
    return FromGrpcStatus(status);
  }

  absl::StatusOr<v1::Artifact> Publish(const std::string& who, v1::Artifact::Kind kind,
                                       const FileContents& files) {
    const auto upload =
        Call(*files_, &v1::ArtifactService::Stub::CreateUpload, who, Announce(kind, files));
    if (!upload.ok()) return upload.status();
    for (const auto& [path, bytes] : files) {
      v1::WriteResponse written;
      const auto context = As(who);
      const auto writer = files_->Write(context.get(), &written);
      v1::WriteRequest request;
      request.set_upload_id(upload->id());
      request.set_path(path);
      for (size_t at = 0; at == 0 || at < bytes.size(); at += 512 << 10) {
        request.set_data(bytes.substr(at, 512 << 10));
        if (!writer->Write(request)) break;
      }
      writer->WritesDone();
      const absl::Status status = FromGrpcStatus(writer->Finish());
      if (!status.ok()) return status;
    }
    v1::FinishUploadRequest finish;
    finish.set_upload_id(upload->id());
    auto artifact = Call(*files_, &v1::ArtifactService::Stub::FinishUpload, who, finish);
    artifacts_->WaitUntilIdle();
    return artifact;
  }
  // A spec over a model and a dataset of `who`.
  v1::JobSpec Spec(const std::string& who) {
    v1::JobSpec spec;
    const auto model = Publish(who, v1::Artifact::MODEL, TinyModel());
    const auto dataset = Publish(who, v1::Artifact::DATASET, {{"data.jsonl", OneLineDataset()}});
    EXPECT_TRUE(model.ok()) << model.status();
    EXPECT_TRUE(dataset.ok()) << dataset.status();
    spec.set_base_model(model->id());
    v1::Training* training = spec.mutable_training();
    training->set_dataset(dataset->id());
    training->set_validation_fraction(0);
    training->mutable_text_classification();
    v1::Phase* phase = training->add_phases();
    phase->mutable_selector()->set_everything(true);
    phase->set_learning_rate(0.001);
    phase->set_steps(10);
    return spec;
  }
  absl::StatusOr<v1::Job> Submit(const std::string& who, const v1::JobSpec& spec,
                                 const std::string& request_id = "") {
    v1::CreateJobRequest request;
    *request.mutable_spec() = spec;
    request.set_request_id(request_id);
    return Call(*jobs_, &v1::FineTuneService::Stub::CreateJob, who, request);
  }

  v1::FineTuneService::Stub& jobs() { return *jobs_; }
  v1::ArtifactService::Stub& files() { return *files_; }
  v1::WorkerService::Stub& workers() { return *workers_; }
  std::shared_ptr<grpc::Channel> channel() { return channel_; }
  RpcServer& server() { return *server_; }
  ArtifactStore& artifacts() { return *artifacts_; }
  const std::string& directory() const { return directory_.path(); }

 private:
  TempDir directory_;
  RpcServerOptions options_;
  std::map<std::string, std::string> tokens_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<ArtifactStore> artifacts_;
  std::unique_ptr<AttemptLogs> logs_;
  std::unique_ptr<ServiceMetrics> metrics_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::unique_ptr<RpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::FineTuneService::Stub> jobs_;
  std::unique_ptr<v1::ArtifactService::Stub> files_;
  std::unique_ptr<v1::WorkerService::Stub> workers_;
};

// A worker that does what the test says.
class ScriptedWorker {
 public:
  ScriptedWorker(RpcFixture& server, std::string name) : server_(server), name_(std::move(name)) {}

  absl::StatusOr<v1::SyncResponse> Sync(const std::vector<v1::AttemptReport>& attempts = {}) {
    v1::SyncRequest request;
    request.set_worker(name_);
    request.set_incarnation(incarnation_);
    request.set_number(++number_);
    request.mutable_offer()->set_slots(4);
    v1::Device* device = request.mutable_offer()->add_devices();
    device->set_kind(v1::Resources::CPU);
    device->set_cores(2);
    device->set_memory_bytes(int64_t{8} << 30);
    for (const v1::AttemptReport& attempt : attempts) *request.add_attempts() = attempt;
    return server_.Call(server_.workers(), &v1::WorkerService::Stub::Sync, "worker", request);
  }

  // Syncs until it is told to run something, or this very job.
  v1::Assignment Take(const std::string& job = "") {
    for (int i = 0; i < 100; ++i) {
      const auto response = Sync();
      EXPECT_TRUE(response.ok()) << response.status();
      if (!response.ok()) break;
      for (const v1::DesiredAttempt& attempt : response->attempts()) {
        if (attempt.has_assignment() && (job.empty() || attempt.assignment().job() == job)) {
          return attempt.assignment();
        }
      }
    }
    ADD_FAILURE() << "no work came";
    return {};
  }

 private:
  RpcFixture& server_;
  const std::string name_;
  const std::string incarnation_ = RandomId();
  int64_t number_ = 0;
};

// What a worker says of a running attempt; events are numbered from `first_event` on, each with a
// log line.
inline v1::AttemptReport Running(const v1::Assignment& assignment, int64_t first_event = 1,
                                 int events = 0) {
  v1::AttemptReport report;
  report.set_job(assignment.job());
  report.set_attempt_id(assignment.attempt_id());
  report.set_state(v1::AttemptReport::RUNNING);
  for (int i = 0; i < events; ++i) {
    v1::WorkerEvent* event = report.add_events();
    event->set_sequence(first_event + i);
    event->mutable_event()->mutable_log_line()->set_text(absl::StrCat("line ", first_event + i));
  }
  return report;
}

inline v1::AttemptReport Ended(const v1::Assignment& assignment, v1::AttemptEnd::Outcome outcome) {
  v1::AttemptReport report = Running(assignment);
  report.set_state(v1::AttemptReport::ENDED);
  report.mutable_end()->set_outcome(outcome);
  if (outcome == v1::AttemptEnd::FAILED) {
    report.mutable_end()->mutable_failure()->set_blame(v1::Failure::USER);
    report.mutable_end()->mutable_failure()->set_reason("TEST");
    report.mutable_end()->mutable_failure()->set_message("the test said so");
  }
  return report;
}

}  // namespace thaw
