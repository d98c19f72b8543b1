#include "tests/testing/cluster.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/clock.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/base/unique_fd.h"
#include "common/rpc/artifact_transfer.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "gtest/gtest.h"
#include "server/jobs/state_machine.h"

namespace thaw {
namespace {

// Longer than any wait of a test that passes, even on a busy machine.
constexpr double kPatienceSeconds = 40;
constexpr auto kLookAgain = std::chrono::milliseconds(5);

std::string Program(const std::string& name) {
  const char* folder = getenv("THAW_BIN");
  THAW_CHECK(folder != nullptr);
  return absl::StrCat(folder, "/", name);
}

class Patience {
 public:
  // Waits a little; false once it has run out.
  bool Wait() {
    std::this_thread::sleep_for(kLookAgain);
    return static_cast<double>(RealClock().BootMicros() - start_) * 1e-6 < kPatienceSeconds;
  }

 private:
  const int64_t start_ = RealClock().BootMicros();
};

void PrintTail(const std::string& file) {
  constexpr size_t kTail = 6000;
  const auto text = ReadFile(file);
  if (!text.ok()) return;
  printf("---- %s\n%s\n", file.c_str(),
         text->substr(text->size() > kTail ? text->size() - kTail : 0).c_str());
}

}  // namespace

Cluster::Cluster(const ClusterOptions& options) : options_(options) {
  address_ = "unix:" + directory() + "/socket";
  StartServer();
  const std::string config =
      R"({"model_type": "bert", "num_hidden_layers": 1, "hidden_size": 8, "max_position_embeddings": 128})";
  std::string weights = R"({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})";
  weights.resize((weights.size() + 7) / 8 * 8, ' ');
  weights = std::string(1, static_cast<char>(weights.size())) + std::string(7, '\0') + weights +
            std::string(8, '\0');
  model_ =
      Upload(v1::Artifact::MODEL,
             {{"config.json", config}, {"model.safetensors", weights}, {"tokenizer.json", "{}"}});
  std::string rows;
  for (int row = 0; row < 40; ++row) {
    absl::StrAppend(&rows, "{\"text\": \"text ", row, "\", \"label\": \"",
                    row % 2 == 0 ? "good" : "bad", "\"}\n");
  }
  dataset_ = Upload(v1::Artifact::DATASET, {{"data.jsonl", rows}});
}

Cluster::~Cluster() {
  std::vector<std::string> logs = {directory() + "/thawd.log"};
  for (const auto& [name, worker] : workers_) {
    logs.push_back(absl::StrCat(directory(), "/", name, ".log"));
  }
  workers_.clear();
  server_.reset();
  if (!::testing::Test::HasFailure()) return;
  for (const std::string& log : logs) PrintTail(log);
}

void Cluster::StartServer(const std::vector<std::string>& flags) {
  const std::string port_file = directory() + "/ports.json";
  (void)RemoveTree(port_file);
  const auto seconds = [](const char* flag, double value) {
    return absl::StrCat(flag, "=", value);
  };
  std::vector<std::string> command = {Program("thawd"),
                                      "--data_dir",
                                      directory() + "/data",
                                      "--listen",
                                      address_,
                                      "--metrics_listen",
                                      "127.0.0.1:0",
                                      "--port_file",
                                      port_file,
                                      "--max_queued_jobs=100000",
                                      seconds("--lease", options_.lease_seconds),
                                      seconds("--grace", options_.grace_seconds),
                                      seconds("--idle_hang", options_.idle_hang_seconds),
                                      seconds("--busy_interval", options_.busy_interval_seconds),
                                      seconds("--retry_backoff", options_.retry_backoff_seconds)};
  // Whatever the machine has free will do, unless a test says otherwise.
  if (flags.empty()) command.emplace_back("--min_free_gigabytes=0");
  command.insert(command.end(), flags.begin(), flags.end());
  server_ = std::make_unique<ChildProcess>(command, directory() + "/thawd.log");
  Patience patience;
  while (!Exists(port_file)) {
    if (!server_->Running() || !patience.Wait()) {
      PrintTail(directory() + "/thawd.log");
      THAW_CHECK(Exists(port_file));
    }
  }
  metrics_address_ = (*ReadJsonFile(port_file))["metrics_listen"].get<std::string>();
  access_token_ = *ReadAccessToken(directory() + "/data/access_token");
  // A fresh channel does not sit out the back-off of one that has seen the server die.
  const auto channel = *CreateChannel(address_, {});
  jobs_ = v1::FineTuneService::NewStub(channel);
  artifacts_ = v1::ArtifactService::NewStub(channel);
  worker_service_ = v1::WorkerService::NewStub(channel);
}

void Cluster::KillServer() { server_->Kill(); }

void Cluster::StartWorker(const std::string& name, int slots) {
  workers_[name] = std::make_unique<ChildProcess>(
      std::vector<std::string>{Program("thaw-worker"), "--server", address_, "--token_file",
                               directory() + "/data/worker_token", "--name", name, "--work_dir",
                               absl::StrCat(directory(), "/worker-", name), "--trainer",
                               Program("thaw-fake-trainer"), "--devices", "cpu",
                               absl::StrCat("--slots=", slots),
                               absl::StrCat("--hang_seconds=", options_.hang_seconds),
                               absl::StrCat("--hold_seconds=", options_.hold_seconds)},
      absl::StrCat(directory(), "/", name, ".log"));
}

bool Cluster::WaitForWorker(const std::string& name, bool connected) {
  Patience patience;
  do {
    v1::ListWorkersResponse response;
    if (!Call(worker_service_, &v1::WorkerService::Stub::ListWorkers, v1::ListWorkersRequest(),
              &response)
             .ok()) {
      continue;
    }
    for (const v1::WorkerStatus& worker : response.workers()) {
      if (worker.worker() == name && worker.connected() == connected) return true;
    }
  } while (patience.Wait());
  ADD_FAILURE() << "worker " << name << (connected ? " does not connect" : " stays connected");
  return false;
}

void Cluster::Prepare(grpc::ClientContext* context, double seconds) const {
  AddAccessToken(access_token_, context);
  context->set_deadline(std::chrono::system_clock::now() +
                        std::chrono::milliseconds(static_cast<int64_t>(seconds * 1e3)));
}

template <typename Stub, typename Request, typename Response>
absl::Status Cluster::Call(const std::unique_ptr<Stub>& stub,
                           grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                        Response*),
                           const Request& request, Response* response) {
  Patience patience;
  while (true) {
    grpc::ClientContext context;
    Prepare(&context);
    const absl::Status status = FromGrpcStatus((stub.get()->*method)(&context, request, response));
    if (!absl::IsUnavailable(status) || !patience.Wait()) return status;
  }
}

std::string Cluster::Upload(v1::Artifact::Kind kind,
                            const std::map<std::string, std::string>& files) {
  v1::CreateUploadRequest request;
  request.set_kind(kind);
  std::vector<std::string> paths;
  const std::string folder = absl::StrCat(directory(), "/upload-", kind);
  THAW_CHECK(MakeDirectories(folder).ok());
  for (const auto& [name, bytes] : files) {
    paths.push_back(absl::StrCat(folder, "/", name));
    THAW_CHECK(WriteFileAtomically(paths.back(), bytes).ok());
    *request.add_files() = *DescribeFile(paths.back(), name);
  }
  TransferOptions options;
  options.prepare = [this](grpc::ClientContext* context) {
    AddAccessToken(access_token_, context);
  };
  auto artifact = UploadArtifact(artifacts_.get(), request, paths, {}, options);
  Patience patience;
  while (artifact.ok() && artifact->state() == v1::Artifact::VALIDATING && patience.Wait()) {
    v1::GetArtifactRequest get;
    get.set_id(artifact->id());
    const absl::Status status =
        Call(artifacts_, &v1::ArtifactService::Stub::GetArtifact, get, &*artifact);
    if (!status.ok()) artifact = status;
  }
  EXPECT_TRUE(artifact.ok()) << artifact.status();
  if (!artifact.ok()) return "";
  EXPECT_EQ(artifact->state(), v1::Artifact::READY) << artifact->DebugString();
  return artifact->id();
}

v1::JobSpec Cluster::Spec(const std::string& fake, int64_t steps, int64_t checkpoint_steps) const {
  v1::JobSpec spec;
  spec.set_base_model(model_);
  v1::Training* training = spec.mutable_training();
  training->set_dataset(dataset_);
  training->mutable_text_classification();
  v1::Phase* phase = training->add_phases();
  phase->mutable_selector()->set_head_only(true);
  phase->set_learning_rate(1e-3);
  phase->set_steps(steps);
  training->mutable_checkpoint()->set_every_steps(checkpoint_steps);
  (*spec.mutable_labels())["fake"] = fake;
  return spec;
}

std::string Cluster::Submit(const v1::JobSpec& spec) {
  v1::CreateJobRequest request;
  *request.mutable_spec() = spec;
  v1::Job job;
  const absl::Status status = Call(jobs_, &v1::FineTuneService::Stub::CreateJob, request, &job);
  EXPECT_TRUE(status.ok()) << status;
  return job.id();
}

v1::Job Cluster::Get(const std::string& id) {
  v1::GetJobRequest request;
  request.set_id(id);
  v1::Job job;
  const absl::Status status = Call(jobs_, &v1::FineTuneService::Stub::GetJob, request, &job);
  EXPECT_TRUE(status.ok()) << status;
  return job;
}

std::vector<v1::Job> Cluster::ListJobs() {
  std::vector<v1::Job> all;
  v1::ListJobsRequest request;
  request.set_page_size(1000);
  do {
    v1::ListJobsResponse page;
    const absl::Status status = Call(jobs_, &v1::FineTuneService::Stub::ListJobs, request, &page);
    EXPECT_TRUE(status.ok()) << status;
    if (!status.ok()) break;
    all.insert(all.end(), page.jobs().begin(), page.jobs().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return all;
}

std::vector<v1::Event> Cluster::Events(const std::string& job) {
  std::vector<v1::Event> all;
  v1::ListJobEventsRequest request;
  request.set_id(job);
  request.set_page_size(1000);
  while (true) {
    v1::ListJobEventsResponse page;
    const absl::Status status =
        Call(jobs_, &v1::FineTuneService::Stub::ListJobEvents, request, &page);
    EXPECT_TRUE(status.ok()) << status;
    if (page.events().empty()) return all;
    all.insert(all.end(), page.events().begin(), page.events().end());
    request.set_after_sequence(all.back().sequence());
  }
}

absl::Status Cluster::Cancel(const std::string& job) {
  v1::CancelJobRequest request;
  request.set_id(job);
  v1::Job answer;
  return Call(jobs_, &v1::FineTuneService::Stub::CancelJob, request, &answer);
}

absl::Status Cluster::Pause(const std::string& job) {
  v1::PauseJobRequest request;
  request.set_id(job);
  v1::Job answer;
  return Call(jobs_, &v1::FineTuneService::Stub::PauseJob, request, &answer);
}

absl::Status Cluster::Resume(const std::string& job) {
  v1::ResumeJobRequest request;
  request.set_id(job);
  v1::Job answer;
  return Call(jobs_, &v1::FineTuneService::Stub::ResumeJob, request, &answer);
}

absl::Status Cluster::Steer(const std::string& job, const v1::Steering& action,
                            const std::string& request_id) {
  v1::SteerJobRequest request;
  request.set_id(job);
  *request.mutable_action() = action;
  request.set_request_id(request_id);
  v1::Job answer;
  return Call(jobs_, &v1::FineTuneService::Stub::SteerJob, request, &answer);
}

absl::Status Cluster::Drain(const std::string& worker) {
  v1::DrainWorkerRequest request;
  request.set_worker(worker);
  v1::WorkerStatus answer;
  return Call(worker_service_, &v1::WorkerService::Stub::DrainWorker, request, &answer);
}

std::vector<v1::Artifact> Cluster::Artifacts(v1::Artifact::Kind kind) {
  v1::ListArtifactsRequest request;
  request.set_kind(kind);
  request.set_page_size(1000);
  v1::ListArtifactsResponse response;
  const absl::Status status =
      Call(artifacts_, &v1::ArtifactService::Stub::ListArtifacts, request, &response);
  EXPECT_TRUE(status.ok()) << status;
  return {response.artifacts().begin(), response.artifacts().end()};
}

absl::StatusOr<std::string> Cluster::Fetch(const std::string& id) {
  v1::GetArtifactRequest request;
  request.set_id(id);
  v1::Artifact artifact;
  THAW_RETURN_IF_ERROR(
      Call(artifacts_, &v1::ArtifactService::Stub::GetArtifact, request, &artifact));
  TransferOptions options;
  options.prepare = [this](grpc::ClientContext* context) {
    AddAccessToken(access_token_, context);
  };
  const std::string into = absl::StrCat(directory(), "/fetched-", ++fetched_);
  THAW_RETURN_IF_ERROR(DownloadArtifact(artifacts_.get(), artifact, into, options));
  return into;
}

v1::MetricSeries Cluster::Losses(const std::string& job) {
  v1::QueryMetricsRequest request;
  request.set_id(job);
  request.add_names("loss");
  request.set_max_points(10'000);
  v1::QueryMetricsResponse response;
  const absl::Status status =
      Call(jobs_, &v1::FineTuneService::Stub::QueryMetrics, request, &response);
  EXPECT_TRUE(status.ok()) << status;
  return response.series().empty() ? v1::MetricSeries() : response.series(0);
}

double Cluster::Metric(const std::string& name) {
  const std::vector<std::string> parts = absl::StrSplit(metrics_address_, ':');
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(atoi(parts.back().c_str())));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) return -1;
  const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
  if (send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return -1;
  std::string text;
  char buffer[4096];
  for (ssize_t count; (count = recv(socket.get(), buffer, sizeof(buffer), 0)) > 0;) {
    text.append(buffer, static_cast<size_t>(count));
  }
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::pair<std::string, std::string> halves =
        absl::StrSplit(line, absl::MaxSplits(' ', 1));
    double value = -1;
    if (halves.first == name && absl::SimpleAtod(halves.second, &value)) return value;
  }
  return -1;
}

v1::Job Cluster::WaitUntil(const std::string& id, const std::function<bool(const v1::Job&)>& is_so,
                           const std::string& what) {
  Patience patience;
  v1::Job job;
  do {
    job = Get(id);
    if (is_so(job)) return job;
  } while (!job.done() && patience.Wait());
  ADD_FAILURE() << id << " never " << what << ": " << job.DebugString();
  return job;
}

v1::Job Cluster::WaitForState(const std::string& job, v1::Job::State state) {
  return WaitUntil(
      job, [&](const v1::Job& now) { return now.state() == state; },
      absl::StrCat("became ", v1::Job::State_Name(state)));
}

v1::Job Cluster::WaitForStep(const std::string& job, int64_t step) {
  return WaitUntil(
      job, [&](const v1::Job& now) { return now.progress().step() >= step; },
      absl::StrCat("reached step ", step));
}

v1::Job Cluster::WaitForEnd(const std::string& job) {
  return WaitUntil(
      job, [](const v1::Job& now) { return now.done(); }, "ended");
}

void Cluster::CheckHistory(const std::string& id) {
  int64_t sequence = 0;
  int32_t attempt = 0;
  int64_t step = 0;
  v1::Job::State state = v1::Job::STATE_UNSPECIFIED;
  for (const v1::Event& event : Events(id)) {
    ASSERT_EQ(event.sequence(), ++sequence) << id;
    ASSERT_FALSE(IsTerminal(state)) << id << " goes on after its end: " << event.DebugString();
    if (event.has_state_change()) {
      ASSERT_EQ(event.state_change().from(), state) << id << ": " << event.DebugString();
      ASSERT_TRUE(IsLegal(state, event.state_change().to())) << id << ": " << event.DebugString();
      state = event.state_change().to();
    }
    if (!event.has_metric_points()) continue;
    ASSERT_GE(event.attempt(), attempt) << id << ": " << event.DebugString();
    if (event.attempt() > attempt) step = 0;
    attempt = event.attempt();
    for (const v1::MetricPoint& point : event.metric_points().points()) {
      ASSERT_GT(point.step(), step) << id << ": " << event.DebugString();
      step = point.step();
    }
  }
  const v1::Job job = Get(id);
  EXPECT_EQ(job.state(), state) << id;
  EXPECT_EQ(job.last_sequence(), sequence) << id;
  EXPECT_EQ(job.done(), IsTerminal(state)) << id;
}

void Cluster::CheckLosses(const std::string& job, int64_t steps) {
  const v1::MetricSeries losses = Losses(job);
  ASSERT_EQ(losses.steps_size(), steps) << job << ": " << losses.DebugString();
  for (int i = 0; i < losses.steps_size(); ++i) {
    EXPECT_EQ(losses.steps(i), i + 1) << job;
    EXPECT_DOUBLE_EQ(losses.values(i), 2.0 / (1.0 + 0.1 * (i + 1))) << job;
  }
}

}  // namespace thaw
