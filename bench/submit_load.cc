// Loads a running thawd: submits a second on so many connections, and the time from a submit to the
// answer of an idle worker's Sync. Leaves its jobs queued: give it a data_dir of its own.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "common/base/id.h"
#include "common/base/sha256.h"
#include "common/rpc/channel.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "thaw/v1/artifact_service.grpc.pb.h"
#include "thaw/v1/fine_tune_service.grpc.pb.h"
#include "thaw/v1/worker_service.grpc.pb.h"

namespace thaw {
namespace {

using Seconds = std::chrono::duration<double>;

struct LoadFlags {
  std::string server = kDefaultServer;
  std::string data_dir;
  int connections = 8;
  double seconds = 5;
  int dispatches = 50;
};

// A connection of its own: channels of equal arguments would share one.
std::shared_ptr<grpc::Channel> Connect(const std::string& server) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
}

template <typename Stub, typename Request, typename Response>
Response CallOrDie(Stub& stub,
                   grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                   const std::string& token, const Request& request) {
  grpc::ClientContext context;
  AddAccessToken(token, &context);
  Response response;
  const grpc::Status status = (stub.*method)(&context, request, &response);
  if (!status.ok()) {
    std::cerr << "thaw-bench-submit: " << status.error_message() << "\n";
    std::exit(1);
  }
  return response;
}

std::string Publish(v1::ArtifactService::Stub& stub, const std::string& token,
                    v1::Artifact::Kind kind,
                    const std::vector<std::pair<std::string, std::string>>& files) {
  v1::CreateUploadRequest create;
  create.set_kind(kind);
  for (const auto& [path, bytes] : files) {
    v1::File* file = create.add_files();
    file->set_path(path);
    file->set_size(static_cast<int64_t>(bytes.size()));
    file->set_sha256(Sha256Hex(bytes));
  }
  const auto upload = CallOrDie(stub, &v1::ArtifactService::Stub::CreateUpload, token, create);
  for (const auto& [path, bytes] : files) {
    grpc::ClientContext context;
    AddAccessToken(token, &context);
    v1::WriteResponse written;
    const auto writer = stub.Write(&context, &written);
    v1::WriteRequest request;
    request.set_upload_id(upload.id());
    request.set_path(path);
    request.set_data(bytes);
    writer->Write(request);
    writer->WritesDone();
    writer->Finish();
  }
  v1::FinishUploadRequest finish;
  finish.set_upload_id(upload.id());
  auto artifact = CallOrDie(stub, &v1::ArtifactService::Stub::FinishUpload, token, finish);
  v1::GetArtifactRequest get;
  get.set_id(artifact.id());
  while (artifact.state() == v1::Artifact::VALIDATING) {
    artifact = CallOrDie(stub, &v1::ArtifactService::Stub::GetArtifact, token, get);
  }
  return artifact.id();
}

v1::JobSpec MakeSpec(v1::ArtifactService::Stub& stub, const std::string& token) {
  const std::string header = R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  std::string weights(8, '\0');
  weights[0] = static_cast<char>(header.size());
  weights += header + std::string(8, 'x');
  v1::JobSpec spec;
  spec.set_base_model(Publish(
      stub, token, v1::Artifact::MODEL,
      {{"config.json",
        R"({"model_type":"bert","num_hidden_layers":2,"hidden_size":8,"max_position_embeddings":64})"},
       {"model.safetensors", weights},
       {"tokenizer.json", "{}"}}));
  std::string rows;
  for (int i = 0; i < 20; ++i) {
    absl::StrAppend(&rows, "{\"text\":\"row ", i, "\",\"label\":", i % 2, "}\n");
  }
  v1::Training* training = spec.mutable_training();
  training->set_dataset(Publish(stub, token, v1::Artifact::DATASET, {{"data.jsonl", rows}}));
  training->set_validation_fraction(0);
  training->mutable_text_classification();
  v1::Phase* phase = training->add_phases();
  phase->mutable_selector()->set_everything(true);
  phase->set_learning_rate(0.001);
  phase->set_steps(10);
  return spec;
}

void PrintLatencies(const char* what, std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const auto at = [&](double share) {
    return 1000 * seconds[static_cast<size_t>(share * static_cast<double>(seconds.size() - 1))];
  };
  std::printf("%s: median %.2f ms, 99th percentile %.2f ms, most %.2f ms (of %zu)\n", what, at(0.5),
              at(0.99), at(1), seconds.size());
}

// Submits as fast as answers come, on each connection one at a time.
void MeasureSubmits(const LoadFlags& flags, const std::string& token, const v1::JobSpec& spec) {
  std::vector<std::vector<double>> latencies(static_cast<size_t>(flags.connections));
  std::vector<std::thread> threads;
  const auto start = std::chrono::steady_clock::now();
  for (auto& mine : latencies) {
    threads.emplace_back([&] {
      const auto stub = v1::FineTuneService::NewStub(Connect(flags.server));
      v1::CreateJobRequest request;
      *request.mutable_spec() = spec;
      for (auto begun = start; Seconds(begun - start).count() < flags.seconds;) {
        request.set_request_id(RandomId());
        CallOrDie(*stub, &v1::FineTuneService::Stub::CreateJob, token, request);
        const auto ended = std::chrono::steady_clock::now();
        mine.push_back(Seconds(ended - begun).count());
        begun = ended;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = Seconds(std::chrono::steady_clock::now() - start).count();
  std::vector<double> all;
  for (const auto& mine : latencies) all.insert(all.end(), mine.begin(), mine.end());
  std::printf("%d connections: %.0f submits/s\n", flags.connections,
              static_cast<double>(all.size()) / seconds);
  PrintLatencies("  a submit", std::move(all));
}

// One worker, idle in Sync, and one job at a time, which it hands back as failed.
void MeasureDispatch(const LoadFlags& flags, const std::string& token,
                     const std::string& worker_token, const v1::JobSpec& spec) {
  const auto jobs = v1::FineTuneService::NewStub(Connect(flags.server));
  const auto workers = v1::WorkerService::NewStub(Connect(flags.server));
  v1::SyncRequest sync;
  sync.set_worker("bench-worker");
  sync.set_incarnation(RandomId());
  sync.mutable_offer()->set_slots(1);
  v1::Device* device = sync.mutable_offer()->add_devices();
  device->set_kind(v1::Resources::CPU);
  device->set_cores(2);
  device->set_memory_bytes(int64_t{8} << 30);
  const auto call_sync = [&] {
    sync.set_number(sync.number() + 1);
    return CallOrDie(*workers, &v1::WorkerService::Stub::Sync, worker_token, sync);
  };
  v1::CreateJobRequest submit;
  *submit.mutable_spec() = spec;
  std::vector<double> latencies;
  for (int i = 0; i < flags.dispatches; ++i) {
    std::chrono::steady_clock::time_point arrived;
    v1::Assignment assignment;
    std::thread waiting([&] {
      while (assignment.job().empty()) {
        const v1::SyncResponse response = call_sync();
        arrived = std::chrono::steady_clock::now();
        sync.clear_attempts();
        for (const auto& attempt : response.attempts()) {
          if (attempt.has_assignment()) assignment = attempt.assignment();
        }
      }
    });
    // The Sync is to be hanging when the job comes.
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const auto begun = std::chrono::steady_clock::now();
    CallOrDie(*jobs, &v1::FineTuneService::Stub::CreateJob, token, submit);
    waiting.join();
    latencies.push_back(Seconds(arrived - begun).count());
    v1::AttemptReport* report = sync.add_attempts();
    report->set_job(assignment.job());
    report->set_attempt_id(assignment.attempt_id());
    report->set_state(v1::AttemptReport::ENDED);
    report->mutable_end()->set_outcome(v1::AttemptEnd::FAILED);
    report->mutable_end()->mutable_failure()->set_blame(v1::Failure::USER);
    report->mutable_end()->mutable_failure()->set_message("a benchmark");
    call_sync();
    sync.clear_attempts();
  }
  PrintLatencies("submit to an idle worker's assignment", std::move(latencies));
}

int RunLoad(const LoadFlags& flags) {
  const auto token = ReadAccessToken(flags.data_dir + "/access_token");
  const auto worker_token = ReadAccessToken(flags.data_dir + "/worker_token");
  if (!token.ok() || !worker_token.ok()) {
    std::cerr << "thaw-bench-submit: " << token.status().message() << "\n";
    return 1;
  }
  const auto files = v1::ArtifactService::NewStub(Connect(flags.server));
  const v1::JobSpec spec = MakeSpec(*files, *token);
  if (flags.dispatches > 0) MeasureDispatch(flags, *token, *worker_token, spec);
  if (flags.seconds > 0) MeasureSubmits(flags, *token, spec);
  return 0;
}

}  // namespace
}  // namespace thaw

int main(int argc, char** argv) {
  thaw::LoadFlags flags;
  CLI::App app{"thaw-bench-submit: loads a thawd on this machine that nothing else uses"};
  app.add_option("--server", flags.server, "its address")->capture_default_str();
  app.add_option("--data_dir", flags.data_dir, "its data_dir, for the tokens")->required();
  app.add_option("--connections", flags.connections, "at once")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--seconds", flags.seconds, "of submitting; 0: none")->capture_default_str();
  app.add_option("--dispatches", flags.dispatches, "jobs given to an idle worker; 0: none")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return thaw::RunLoad(flags);
}
