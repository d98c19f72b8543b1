// A real thawd and real thaw-workers on this machine, in a directory of their own, with fake
// trainers.
//
// The server listens on a Unix socket, so that its address is free whenever it is started again.
// Leases are short. Everything waits for what it needs to see, up to a deadline that only a failing
// test meets.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/client_context.h"
#include "tests/testing/child_process.h"
#include "tests/testing/temp_dir.h"
#include "thaw/v1/artifact_service.grpc.pb.h"
#include "thaw/v1/fine_tune_service.grpc.pb.h"
#include "thaw/v1/worker_service.grpc.pb.h"

namespace thaw {

struct ClusterOptions {
  double lease_seconds = 3;
  double grace_seconds = 0.5;
  double idle_hang_seconds = 0.3;  // well below the lease: a held Sync is not a sign of life
  double busy_interval_seconds = 0.1;
  double retry_backoff_seconds = 0.1;
  double hang_seconds = 20;  // of a trainer: more than a busy machine makes one wait
  double hold_seconds = 60;  // of a trainer after the lease
};

class Cluster {
 public:
  // Starts a server and uploads a small model and dataset.
  explicit Cluster(const ClusterOptions& options = {});
  // Kills what runs. If the test has failed, prints what the programs logged.
  ~Cluster();

  // ---- programs
  // With `flags` in the place of --min_free_gigabytes=0.
  void StartServer(const std::vector<std::string>& flags = {});
  // With SIGKILL.
  void KillServer();
  ChildProcess& server() { return *server_; }
  void StartWorker(const std::string& name, int slots = 1);
  ChildProcess& worker(const std::string& name) { return *workers_.at(name); }
  // Waits until the server calls the worker connected (or not).
  bool WaitForWorker(const std::string& name, bool connected);

  // ---- calls, as the admin; each waits for a server that is away
  // A training of one phase; `fake` is the script of the fake trainer.
  v1::JobSpec Spec(const std::string& fake, int64_t steps = 20, int64_t checkpoint_steps = 5) const;
  std::string Submit(const v1::JobSpec& spec);
  v1::Job Get(const std::string& job);
  std::vector<v1::Job> ListJobs();
  std::vector<v1::Event> Events(const std::string& job);
  absl::Status Cancel(const std::string& job);
  absl::Status Pause(const std::string& job);
  absl::Status Resume(const std::string& job);
  absl::Status Steer(const std::string& job, const v1::Steering& action,
                     const std::string& request_id);
  absl::Status Drain(const std::string& worker);
  std::vector<v1::Artifact> Artifacts(v1::Artifact::Kind kind);
  // Into a directory of the cluster's own.
  absl::StatusOr<std::string> Fetch(const std::string& artifact);
  // Steps of the surviving line with their losses.
  v1::MetricSeries Losses(const std::string& job);
  // A counter of /metrics without labels; -1 if it is not there.
  double Metric(const std::string& name);

  // Asks again until `is_so`; the last answer otherwise, with a failure of the test.
  v1::Job WaitUntil(const std::string& job, const std::function<bool(const v1::Job&)>& is_so,
                    const std::string& what);
  v1::Job WaitForState(const std::string& job, v1::Job::State state);
  v1::Job WaitForStep(const std::string& job, int64_t step);
  v1::Job WaitForEnd(const std::string& job);

  // Fails the test unless the job's history is whole: numbered 1, 2, 3 …, legal from state to
  // state, nothing after the end, metric points of each attempt in order.
  void CheckHistory(const std::string& job);
  // Fails the test unless the surviving line has a loss for each of 1 … `steps`, once, the right
  // one.
  void CheckLosses(const std::string& job, int64_t steps);

  v1::FineTuneService::Stub& jobs() { return *jobs_; }
  // Puts the admin's token and a deadline in.
  void Prepare(grpc::ClientContext* context, double seconds = 10) const;
  const std::string& directory() const { return directory_.path(); }
  const std::string& address() const { return address_; }

 private:
  std::string Upload(v1::Artifact::Kind kind, const std::map<std::string, std::string>& files);
  template <typename Stub, typename Request, typename Response>
  absl::Status Call(const std::unique_ptr<Stub>& stub,
                    grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response);

  const ClusterOptions options_;
  TempDir directory_;
  std::unique_ptr<ChildProcess> server_;
  std::map<std::string, std::unique_ptr<ChildProcess>> workers_;
  std::string address_;
  std::string access_token_;
  std::string metrics_address_;
  std::string model_, dataset_;
  int fetched_ = 0;
  std::unique_ptr<v1::FineTuneService::Stub> jobs_;
  std::unique_ptr<v1::ArtifactService::Stub> artifacts_;
  std::unique_ptr<v1::WorkerService::Stub> worker_service_;
};

}  // namespace thaw
