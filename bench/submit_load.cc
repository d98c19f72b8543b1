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
#include "bench/service_client.h"
#include "common/base/id.h"

namespace thaw::bench {
namespace {

using Seconds = std::chrono::duration<double>;

struct LoadFlags {
  std::string server = kDefaultServer;
  std::string data_dir;
  int connections = 8;
  double seconds = 5;
  int64_t jobs = 1'000'000;
  int dispatches = 50;
};

// Submits as fast as answers come, on each connection one at a time.
void MeasureSubmits(const LoadFlags& flags, const std::string& token, const v1::JobSpec& spec) {
  std::vector<std::vector<double>> latencies(static_cast<size_t>(flags.connections));
  std::vector<std::thread> threads;
  std::atomic<int64_t> left = flags.jobs;
  const double cpu = CpuSeconds();
  const auto start = std::chrono::steady_clock::now();
  for (auto& mine : latencies) {
    threads.emplace_back([&] {
      const auto stub = v1::FineTuneService::NewStub(Connect(flags.server));
      v1::CreateJobRequest request;
      *request.mutable_spec() = spec;
      for (auto begun = start; Seconds(begun - start).count() < flags.seconds && left-- > 0;) {
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
  std::printf("%d connections: %.0f submits/s; the clients' CPU %.2f s of %.2f s, load %.1f\n",
              flags.connections, static_cast<double>(all.size()) / seconds, CpuSeconds() - cpu,
              seconds, Load());
  PrintLatencies("  a submit", std::move(all));
}

// One worker, idle in Sync, and one job at a time, which it hands back as failed: from the submit
// to the assignment, or where other jobs wait, from the worker's Sync to that of one of them.
void MeasureDispatch(const LoadFlags& flags, const std::string& token,
                     const std::string& worker_token, const v1::JobSpec& spec) {
  const auto jobs = v1::FineTuneService::NewStub(Connect(flags.server));
  const auto workers = v1::WorkerService::NewStub(Connect(flags.server));
  v1::SyncRequest sync = NewWorker("bench-worker");
  const auto call_sync = [&] {
    sync.set_number(sync.number() + 1);
    return CallOrDie(*workers, &v1::WorkerService::Stub::Sync, worker_token, sync);
  };
  v1::CreateJobRequest submit;
  *submit.mutable_spec() = spec;
  std::vector<double> latencies;
  for (int i = 0; i < flags.dispatches; ++i) {
    std::chrono::steady_clock::time_point asked, arrived;
    v1::Assignment assignment;
    std::thread waiting([&] {
      while (assignment.job().empty()) {
        asked = std::chrono::steady_clock::now();
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
    const v1::Job job = CallOrDie(*jobs, &v1::FineTuneService::Stub::CreateJob, token, submit);
    waiting.join();
    latencies.push_back(Seconds(arrived - (assignment.job() == job.id() ? begun : asked)).count());
    ReportFailed(assignment, sync.add_attempts());
    call_sync();
    sync.clear_attempts();
  }
  PrintLatencies("a job to an idle worker", std::move(latencies));
}

int RunLoad(const LoadFlags& flags) {
  const auto [token, worker_token] = ReadTokens(flags.data_dir);
  const auto files = v1::ArtifactService::NewStub(Connect(flags.server));
  const v1::JobSpec spec = MakeSpec(*files, token);
  if (flags.dispatches > 0) MeasureDispatch(flags, token, worker_token, spec);
  if (flags.seconds > 0) MeasureSubmits(flags, token, spec);
  return 0;
}

}  // namespace
}  // namespace thaw::bench

int main(int argc, char** argv) {
  thaw::bench::LoadFlags flags;
  CLI::App app{"thaw-bench-submit: loads a thawd on this machine that nothing else uses"};
  app.add_option("--server", flags.server, "its address")->capture_default_str();
  app.add_option("--data_dir", flags.data_dir, "its data_dir, for the tokens")->required();
  app.add_option("--connections", flags.connections, "at once")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--seconds", flags.seconds, "of submitting; 0: none")->capture_default_str();
  app.add_option("--jobs", flags.jobs, "no more than so many of them")->capture_default_str();
  app.add_option("--dispatches", flags.dispatches, "jobs given to an idle worker; 0: none")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return thaw::bench::RunLoad(flags);
}
