// Watchers of one job beside a running thawd that has no other work: how long after its commit an
// event has reached all of them. One thread reads all streams, and its work is part of the time.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "bench/service_client.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/support/async_stream.h"

namespace thaw::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

struct WatchFlags {
  std::string server = kDefaultServer;
  std::string data_dir;
  int watchers = 1000;
  int channels = 4;
  int events = 50;
  double pause_seconds = 0.2;
};

// How many have an event, and when the first and the last got it.
struct Arrival {
  int watchers = 0;
  Clock::time_point first;
  Clock::time_point last;
};

class Watcher {
 public:
  Watcher(v1::FineTuneService::Stub& stub, const std::string& token, const std::string& job,
          grpc::CompletionQueue* queue) {
    AddAccessToken(token, &context_);
    v1::WatchJobRequest request;
    request.set_id(job);
    reader_ = stub.AsyncWatchJob(&context_, request, queue, this);
  }

  // What the last call to gRPC has brought; asks for the next message. False at the end.
  bool Advance(bool ok, std::map<int64_t, Arrival>* arrivals, int* ready) {
    if (!ok) return false;
    if (started_) {
      if (response_.has_event()) {
        Arrival& arrival = (*arrivals)[response_.event().sequence()];
        arrival.last = Clock::now();
        if (arrival.watchers++ == 0) arrival.first = arrival.last;
      } else if (response_.has_snapshot()) {
        ++*ready;
      }
    }
    started_ = true;
    reader_->Read(&response_, this);
    return true;
  }
  void Cancel() { context_.TryCancel(); }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientAsyncReader<v1::WatchJobResponse>> reader_;
  v1::WatchJobResponse response_;
  bool started_ = false;
};

// The one worker, which holds the one job.
class Reporter {
 public:
  Reporter(const WatchFlags& flags, std::string worker_token)
      : token_(std::move(worker_token)),
        stub_(v1::WorkerService::NewStub(Connect(flags.server))),
        sync_(NewWorker("bench-watched")) {}

  void TakeJob() {
    while (assignment_.job().empty()) {
      const v1::SyncResponse response = Sync();
      for (const v1::DesiredAttempt& desired : response.attempts()) {
        if (desired.has_assignment()) assignment_ = desired.assignment();
      }
    }
    Report();
  }
  // One event; when the answer is here it is committed.
  void Report() {
    sync_.clear_attempts();
    v1::AttemptReport* report = sync_.add_attempts();
    report->set_job(assignment_.job());
    report->set_attempt_id(assignment_.attempt_id());
    report->set_state(v1::AttemptReport::RUNNING);
    report->mutable_progress()->set_step(++step_);
    v1::WorkerEvent* event = report->add_events();
    event->set_sequence(step_);
    v1::MetricPoint* point = event->mutable_event()->mutable_metric_points()->add_points();
    point->set_step(step_);
    v1::MetricValue* value = point->add_values();
    value->set_name("loss");
    value->set_value(0.5);
    Sync();
  }
  void End() {
    sync_.clear_attempts();
    ReportFailed(assignment_, sync_.add_attempts());
    Sync();
  }

 private:
  v1::SyncResponse Sync() {
    sync_.set_number(sync_.number() + 1);
    return CallOrDie(*stub_, &v1::WorkerService::Stub::Sync, token_, sync_);
  }

  const std::string token_;
  const std::unique_ptr<v1::WorkerService::Stub> stub_;
  v1::SyncRequest sync_;
  v1::Assignment assignment_;
  int64_t step_ = 0;
};

int RunWatch(const WatchFlags& flags) {
  const Tokens tokens = ReadTokens(flags.data_dir);
  const auto files = v1::ArtifactService::NewStub(Connect(flags.server));
  v1::CreateJobRequest submit;
  *submit.mutable_spec() = MakeSpec(*files, tokens.admin);
  std::vector<std::unique_ptr<v1::FineTuneService::Stub>> stubs;
  for (int i = 0; i < flags.channels; ++i) {
    stubs.push_back(v1::FineTuneService::NewStub(Connect(flags.server)));
  }
  const std::string job =
      CallOrDie(*stubs[0], &v1::FineTuneService::Stub::CreateJob, tokens.admin, submit).id();
  Reporter reporter(flags, tokens.worker);
  reporter.TakeJob();

  grpc::CompletionQueue queue;
  std::vector<std::unique_ptr<Watcher>> watchers;
  for (int i = 0; i < flags.watchers; ++i) {
    auto& stub = *stubs[static_cast<size_t>(i % flags.channels)];
    watchers.push_back(std::make_unique<Watcher>(stub, tokens.admin, job, &queue));
  }
  std::map<int64_t, Arrival> arrivals;
  int ready = 0;
  int open = flags.watchers;
  const auto drain_until = [&](Clock::time_point deadline, const auto& done) {
    while (!done() && open > 0) {
      void* tag = nullptr;
      bool ok = false;
      const auto left = std::chrono::duration_cast<std::chrono::microseconds>(
          std::max(Clock::duration(0), deadline - Clock::now()));
      if (queue.AsyncNext(&tag, &ok, std::chrono::system_clock::now() + left) !=
          grpc::CompletionQueue::GOT_EVENT) {
        return;
      }
      if (!static_cast<Watcher*>(tag)->Advance(ok, &arrivals, &ready)) --open;
    }
  };
  const auto ever = Clock::now() + std::chrono::seconds(60);
  drain_until(ever, [&] { return ready == flags.watchers; });
  if (ready != flags.watchers) Die("not all watchers got a snapshot within a minute");
  // What the job had before.
  drain_until(Clock::now() + std::chrono::seconds(1), [] { return false; });

  const double cpu = CpuSeconds();
  std::vector<double> since_sent, since_answered;
  for (int i = 0; i < flags.events; ++i) {
    const int64_t before = arrivals.empty() ? 0 : arrivals.rbegin()->first;
    const auto sent = Clock::now();
    Clock::time_point answered;
    std::thread reporting([&] {
      reporter.Report();
      answered = Clock::now();
    });
    drain_until(sent + std::chrono::seconds(10), [&] {
      return arrivals.rbegin()->first > before &&
             arrivals.rbegin()->second.watchers == flags.watchers;
    });
    reporting.join();
    const Arrival& arrival = arrivals.rbegin()->second;
    if (arrival.watchers != flags.watchers) Die("an event did not reach everybody within 10 s");
    since_sent.push_back(Seconds(arrival.last - sent).count());
    since_answered.push_back(Seconds(arrival.last - answered).count());
    drain_until(
        Clock::now() + std::chrono::microseconds(static_cast<int64_t>(flags.pause_seconds * 1e6)),
        [] { return false; });
  }
  std::printf(
      "%d watchers on %d connections, %d events: the clients' CPU %.2f ms an event, "
      "load %.1f\n",
      flags.watchers, flags.channels, flags.events, 1000 * (CpuSeconds() - cpu) / flags.events,
      Load());
  PrintLatencies("  a report sent to the event at the last watcher", std::move(since_sent));
  PrintLatencies("  its commit answered to the event at the last watcher",
                 std::move(since_answered));
  for (const auto& watcher : watchers) watcher->Cancel();
  drain_until(Clock::now() + std::chrono::seconds(10), [] { return false; });
  reporter.End();
  queue.Shutdown();
  return 0;
}

}  // namespace
}  // namespace thaw::bench

int main(int argc, char** argv) {
  thaw::bench::WatchFlags flags;
  CLI::App app{"thaw-bench-watch: watchers of one job of a thawd on this machine"};
  app.add_option("--server", flags.server, "its address")->capture_default_str();
  app.add_option("--data_dir", flags.data_dir, "its data_dir, for the tokens")->required();
  app.add_option("--watchers", flags.watchers, "streams")
      ->check(CLI::Range(1, 5000))
      ->capture_default_str();
  app.add_option("--channels", flags.channels, "connections that they share")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  app.add_option("--events", flags.events, "one after the other")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  app.add_option("--pause", flags.pause_seconds, "seconds between two")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return thaw::bench::RunWatch(flags);
}
