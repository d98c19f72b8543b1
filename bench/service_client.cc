#include "bench/service_client.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "common/base/id.h"
#include "common/base/sha256.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"

namespace thaw::bench {

void Die(const std::string& what) {
  std::cerr << "thaw-bench: " << what << "\n";
  std::exit(1);
}

Tokens ReadTokens(const std::string& data_dir) {
  const auto admin = ReadAccessToken(data_dir + "/access_token");
  const auto worker = ReadAccessToken(data_dir + "/worker_token");
  if (!admin.ok()) Die(std::string(admin.status().message()));
  if (!worker.ok()) Die(std::string(worker.status().message()));
  return {*admin, *worker};
}

std::shared_ptr<grpc::Channel> Connect(const std::string& server) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
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
    if (const grpc::Status status = writer->Finish(); !status.ok()) Die(status.error_message());
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

std::vector<std::pair<std::string, std::string>> ModelFiles(size_t bytes) {
  const std::string header = absl::StrCat(R"({"w":{"dtype":"F32","shape":[)", bytes / 4,
                                          R"(],"data_offsets":[0,)", bytes, "]}}");
  std::string weights(8, '\0');
  weights[0] = static_cast<char>(header.size());
  weights += header;
  const size_t begin = weights.size();
  weights.resize(begin + bytes);
  // Nothing that a disk or a network could make smaller.
  uint64_t state = 0x9e3779b97f4a7c15;
  for (size_t i = begin; i < weights.size(); ++i) {
    state = state * 6364136223846793005 + 1442695040888963407;
    weights[i] = static_cast<char>(state >> 56);
  }
  return {{"config.json", R"({"model_type":"bert","num_hidden_layers":2,"hidden_size":8,)"
                          R"("max_position_embeddings":64})"},
          {"model.safetensors", std::move(weights)},
          {"tokenizer.json", "{}"}};
}

v1::JobSpec MakeSpec(v1::ArtifactService::Stub& stub, const std::string& token) {
  v1::JobSpec spec;
  spec.set_base_model(Publish(stub, token, v1::Artifact::MODEL, ModelFiles(8)));
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

v1::SyncRequest NewWorker(const std::string& name) {
  v1::SyncRequest sync;
  sync.set_worker(name);
  sync.set_incarnation(RandomId());
  sync.mutable_offer()->set_slots(1);
  v1::Device* device = sync.mutable_offer()->add_devices();
  device->set_kind(v1::Resources::CPU);
  device->set_cores(2);
  device->set_memory_bytes(int64_t{8} << 30);
  return sync;
}

void ReportFailed(const v1::Assignment& assignment, v1::AttemptReport* report) {
  report->set_job(assignment.job());
  report->set_attempt_id(assignment.attempt_id());
  report->set_state(v1::AttemptReport::ENDED);
  report->mutable_end()->set_outcome(v1::AttemptEnd::FAILED);
  report->mutable_end()->mutable_failure()->set_blame(v1::Failure::USER);
  report->mutable_end()->mutable_failure()->set_message("a benchmark");
}

void PrintLatencies(const char* what, std::vector<double> seconds) {
  if (seconds.empty()) return;
  std::sort(seconds.begin(), seconds.end());
  const auto at = [&](double share) {
    return 1000 * seconds[static_cast<size_t>(share * static_cast<double>(seconds.size() - 1))];
  };
  std::printf("%s: median %.2f ms, 99th percentile %.2f ms, most %.2f ms (of %zu)\n", what, at(0.5),
              at(0.99), at(1), seconds.size());
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double Load() {
  double load = 0;
  (void)getloadavg(&load, 1);
  return load;
}

}  // namespace thaw::bench
