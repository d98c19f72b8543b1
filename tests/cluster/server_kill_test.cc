// The server is killed again and again while jobs are submitted and run: none is lost, none
// doubled.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"
#include "tests/testing/cluster.h"

namespace thaw {
namespace {

constexpr int kKills = 100;
constexpr int kSubmitters = 2;
constexpr double kLongestRun = 50;  // seconds

// Submits jobs with request ids of its own, each until it is accepted, through a channel that
// outlives servers.
class Submitter {
 public:
  Submitter(const Cluster& cluster, int number) : cluster_(cluster), number_(number) {}

  void Run(const std::atomic<bool>& stop) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 10);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 10);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 20);
    const auto stub = v1::FineTuneService::NewStub(grpc::CreateCustomChannel(
        cluster_.address(), grpc::InsecureChannelCredentials(), arguments));
    for (int count = 0; !stop; ++count) {
      v1::CreateJobRequest request;
      request.set_request_id(absl::StrCat("request-", number_, "-", count));
      *request.mutable_spec() = cluster_.Spec("ok");
      (*request.mutable_spec()->mutable_labels())["request"] = request.request_id();
      // No worker offers a GPU: these jobs wait, and only their keeping is tested.
      request.mutable_spec()->mutable_resources()->set_device_kind(v1::Resources::CUDA);
      v1::Job job;
      grpc::Status status;
      do {
        grpc::ClientContext context;
        cluster_.Prepare(&context);
        context.set_wait_for_ready(true);
        status = stub->CreateJob(&context, request, &job);
        ++calls;
        if (!status.ok()) ++repeats;
      } while (!status.ok() && !stop);
      if (!status.ok()) break;
      accepted[request.request_id()] = job.id();
    }
  }

  std::map<std::string, std::string> accepted;  // request id -> job
  int calls = 0, repeats = 0;

 private:
  const Cluster& cluster_;
  const int number_;
};

TEST(ServerKillTest, NothingAcceptedIsLostOrDoubled) {
  const uint32_t seed = std::random_device()();
  printf("seed %u\n", seed);
  std::mt19937 random(seed);
  ClusterOptions options;
  options.lease_seconds = 10;
  Cluster cluster(options);
  cluster.StartWorker("one", 4);
  std::vector<std::string> running;
  for (int i = 0; i < 12; ++i) running.push_back(cluster.Submit(cluster.Spec("slow", 60, 10)));

  std::atomic<bool> stop{false};
  std::vector<std::unique_ptr<Submitter>> submitters;
  std::vector<std::thread> threads;
  for (int i = 0; i < kSubmitters; ++i) {
    submitters.push_back(std::make_unique<Submitter>(cluster, i));
    threads.emplace_back([&stop, submitter = submitters.back().get()] { submitter->Run(stop); });
  }
  const int64_t begin = RealClock().BootMicros();
  const auto passed = [&] { return static_cast<double>(RealClock().BootMicros() - begin) * 1e-6; };
  int kills = 0;
  for (; kills < kKills && passed() < kLongestRun; ++kills) {
    // Not a wait for anything: the moment of the kill is what is being varied.
    EXPECT_LT(cluster.server().Wait(std::uniform_real_distribution<double>(0.005, 0.15)(random)), 0)
        << "the server ended by itself";
    cluster.KillServer();
    cluster.StartServer();
  }
  const double killing_seconds = passed();
  stop = true;
  for (std::thread& thread : threads) thread.join();

  std::map<std::string, std::set<std::string>> kept;  // request id -> jobs
  for (const v1::Job& job : cluster.ListJobs()) {
    const auto request = job.spec().labels().find("request");
    if (request != job.spec().labels().end()) kept[request->second].insert(job.id());
  }
  int accepted = 0, lost = 0, doubled = 0, calls = 0, repeats = 0;
  for (const auto& submitter : submitters) {
    calls += submitter->calls;
    repeats += submitter->repeats;
    for (const auto& [request, job] : submitter->accepted) {
      ++accepted;
      if (kept[request].count(job) == 0) ++lost;
    }
  }
  for (const auto& [request, jobs] : kept) doubled += jobs.size() > 1 ? 1 : 0;
  int ended = 0;
  for (const std::string& id : running) {
    const v1::Job job = cluster.WaitForEnd(id);
    EXPECT_EQ(job.state(), v1::Job::SUCCEEDED) << job.DebugString();
    cluster.CheckHistory(id);
    cluster.CheckLosses(id, 60);
    ++ended;
  }
  EXPECT_EQ(cluster.Artifacts(v1::Artifact::RESULT).size(), running.size());
  printf(
      "FIGURE server kills: %d in %.1f s; jobs accepted %d in %d calls (%d broken off and "
      "repeated); "
      "lost %d, doubled %d; jobs that ran through it %d of %zu\n",
      kills, killing_seconds, accepted, calls, repeats, lost, doubled, ended, running.size());
  EXPECT_EQ(lost, 0);
  EXPECT_EQ(doubled, 0);
  EXPECT_GT(accepted, kills);
}

}  // namespace
}  // namespace thaw
