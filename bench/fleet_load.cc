// Simulated workers beside a running thawd: each registers, takes jobs as they are given, reports
// metric points as often as it is told to, and ends them as failed. One thread, few connections.
// Submit the jobs first (thaw-bench-submit --jobs).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/service_client.h"
#include "common/base/id.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/support/async_unary_call.h"

namespace thaw::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

struct FleetFlags {
  std::string server = kDefaultServer;
  std::string data_dir;
  int workers = 1000;
  int channels = 4;
  int syncs_per_job = 3;
  int points_per_sync = 10;
  int64_t jobs = 1'000'000;
  double seconds = 60;
};

struct Totals {
  int64_t syncs = 0;
  int64_t jobs = 0;
  int64_t points = 0;
  int64_t refused = 0;              // calls that failed
  std::vector<double> reports;      // seconds from sending a report to its answer
  std::vector<double> turnarounds;  // ... an end to the next assignment
};

// What a trainer of a small model tells of a step.
void AddPoint(int64_t step, v1::Event* event) {
  v1::MetricPoint* point = event->mutable_metric_points()->add_points();
  point->set_step(step);
  point->set_phase(1);
  point->set_seconds(0.1 * static_cast<double>(step));
  for (const char* name : {"loss", "learning_rate", "grad_norm", "update_norm", "tokens_per_second",
                           "tokens", "loss_sum", "loss_units"}) {
    v1::MetricValue* value = point->add_values();
    value->set_name(name);
    value->set_value(1.0 / static_cast<double>(step));
  }
}

class SimulatedWorker {
 public:
  SimulatedWorker(const FleetFlags& flags, int number, const std::string& token,
                  v1::WorkerService::Stub& stub, Totals& totals)
      : flags_(flags),
        token_(token),
        stub_(stub),
        totals_(totals),
        sync_(NewWorker(absl::StrFormat("fleet-%05d", number))) {}

  void Send(grpc::CompletionQueue* queue) {
    sync_.set_number(sync_.number() + 1);
    sync_.clear_attempts();
    if (!assignment_.job().empty()) Report(sync_.add_attempts());
    context_ = std::make_unique<grpc::ClientContext>();
    AddAccessToken(token_, context_.get());
    sent_ = Clock::now();
    call_ = stub_.AsyncSync(context_.get(), sync_, queue);
    call_->Finish(&response_, &status_, this);
  }

  // The time at which the next Sync is due.
  Clock::time_point Received() {
    const auto now = Clock::now();
    ++totals_.syncs;
    if (!status_.ok()) {
      if (totals_.refused++ == 0) {
        std::fprintf(stderr, "a Sync failed: %s\n", status_.error_message().c_str());
      }
      return now + std::chrono::seconds(1);
    }
    if (!assignment_.job().empty()) totals_.reports.push_back(Seconds(now - sent_).count());
    auto due = now + std::chrono::microseconds(response_.next_sync().seconds() * 1'000'000 +
                                               response_.next_sync().nanos() / 1'000);
    const std::string mine = assignment_.attempt_id();
    for (v1::DesiredAttempt& desired : *response_.mutable_attempts()) {
      if (!mine.empty() && desired.attempt_id() == mine && reports_ >= flags_.syncs_per_job) {
        ++totals_.jobs;
        ended_ = now;
        assignment_.Clear();
      }
    }
    for (v1::DesiredAttempt& desired : *response_.mutable_attempts()) {
      if (!desired.has_assignment() || desired.attempt_id() == mine) continue;
      if (ended_ != Clock::time_point()) {
        totals_.turnarounds.push_back(Seconds(now - ended_).count());
      }
      assignment_ = std::move(*desired.mutable_assignment());
      reports_ = 0;
      step_ = 0;
      return now;
    }
    return due;
  }

  void Cancel() {
    if (context_ != nullptr) context_->TryCancel();
  }

 private:
  void Report(v1::AttemptReport* report) {
    if (++reports_ >= flags_.syncs_per_job) {
      ReportFailed(assignment_, report);
    } else {
      report->set_job(assignment_.job());
      report->set_attempt_id(assignment_.attempt_id());
      report->set_state(v1::AttemptReport::RUNNING);
    }
    report->mutable_progress()->set_step(step_ + flags_.points_per_sync);
    v1::WorkerEvent* event = report->add_events();
    event->set_sequence(reports_);
    for (int i = 0; i < flags_.points_per_sync; ++i) AddPoint(++step_, event->mutable_event());
    totals_.points += flags_.points_per_sync;
  }

  const FleetFlags& flags_;
  const std::string& token_;
  v1::WorkerService::Stub& stub_;
  Totals& totals_;
  v1::SyncRequest sync_;
  v1::Assignment assignment_;  // without a job: idle
  int reports_ = 0;
  int64_t step_ = 0;
  Clock::time_point sent_;
  Clock::time_point ended_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientAsyncResponseReader<v1::SyncResponse>> call_;
  v1::SyncResponse response_;
  grpc::Status status_;
};

int RunFleet(const FleetFlags& flags) {
  const Tokens tokens = ReadTokens(flags.data_dir);
  std::vector<std::unique_ptr<v1::WorkerService::Stub>> stubs;
  for (int i = 0; i < flags.channels; ++i) {
    stubs.push_back(v1::WorkerService::NewStub(Connect(flags.server)));
  }
  Totals totals;
  std::vector<std::unique_ptr<SimulatedWorker>> workers;
  for (int i = 0; i < flags.workers; ++i) {
    auto& stub = *stubs[static_cast<size_t>(i % flags.channels)];
    workers.push_back(std::make_unique<SimulatedWorker>(flags, i, tokens.worker, stub, totals));
  }
  using Due = std::pair<Clock::time_point, SimulatedWorker*>;
  std::priority_queue<Due, std::vector<Due>, std::greater<>> due;
  const double cpu = CpuSeconds();
  const auto start = Clock::now();
  const auto end = start + std::chrono::microseconds(static_cast<int64_t>(flags.seconds * 1e6));
  // As machines that are switched on one after the other.
  for (size_t i = 0; i < workers.size(); ++i) {
    due.emplace(start + std::chrono::milliseconds(i), workers[i].get());
  }
  grpc::CompletionQueue queue;
  while (Clock::now() < end && totals.jobs < flags.jobs) {
    for (; !due.empty() && due.top().first <= Clock::now(); due.pop()) {
      due.top().second->Send(&queue);
    }
    const auto next = due.empty() ? end : std::min(end, due.top().first);
    void* tag = nullptr;
    bool ok = false;
    const auto wait = std::chrono::system_clock::now() +
                      std::chrono::duration_cast<std::chrono::microseconds>(next - Clock::now());
    if (queue.AsyncNext(&tag, &ok, wait) != grpc::CompletionQueue::GOT_EVENT) continue;
    auto* worker = static_cast<SimulatedWorker*>(tag);
    due.emplace(worker->Received(), worker);
  }
  const double seconds = Seconds(Clock::now() - start).count();
  for (const auto& worker : workers) worker->Cancel();
  queue.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue.Next(&tag, &ok)) {
  }
  std::printf(
      "%d workers on %d connections for %.1f s: %ld Syncs (%.0f/s), %ld jobs ended "
      "(%.0f/s), %ld points; %ld failed; the client's CPU %.2f s, load %.1f\n",
      flags.workers, flags.channels, seconds, static_cast<long>(totals.syncs),
      static_cast<double>(totals.syncs) / seconds, static_cast<long>(totals.jobs),
      static_cast<double>(totals.jobs) / seconds, static_cast<long>(totals.points),
      static_cast<long>(totals.refused), CpuSeconds() - cpu, Load());
  PrintLatencies("  a report to its answer", std::move(totals.reports));
  PrintLatencies("  an end to the next assignment", std::move(totals.turnarounds));
  return totals.refused == 0 ? 0 : 1;
}

}  // namespace
}  // namespace thaw::bench

int main(int argc, char** argv) {
  thaw::bench::FleetFlags flags;
  CLI::App app{"thaw-bench-fleet: simulated workers for a thawd on this machine"};
  app.add_option("--server", flags.server, "its address")->capture_default_str();
  app.add_option("--data_dir", flags.data_dir, "its data_dir, for the tokens")->required();
  app.add_option("--workers", flags.workers, "how many")->capture_default_str();
  app.add_option("--channels", flags.channels, "connections that they share")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  app.add_option("--syncs_per_job", flags.syncs_per_job, "the last one reports the end")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--points_per_sync", flags.points_per_sync, "of the metrics")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  app.add_option("--jobs", flags.jobs, "stop when so many have ended")->capture_default_str();
  app.add_option("--seconds", flags.seconds, "at most")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return thaw::bench::RunFleet(flags);
}
