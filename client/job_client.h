// FineTuneService and the operators' part of WorkerService, typed.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "thaw/v1/fine_tune_service.pb.h"
#include "thaw/v1/worker_service.pb.h"

namespace grpc {
class ClientContext;
}

namespace thaw {

class Caller;

struct JobFilter {
  std::vector<v1::Job::State> states;         // empty: all
  std::map<std::string, std::string> labels;  // all of these
  std::string owner;                          // empty: the caller's own, for an admin everybody's
  int limit = 50;                             // most jobs; 0: all
};

struct WatchOptions {
  // The last sequence that the caller has seen; 0: all.
  int64_t after_sequence = 0;
  // How long a broken watch is taken up again before it is given up.
  double reconnect_seconds = 300;
};

// Statuses are the server's, with violations (ViolationsOf) and reason (ReasonOf). UNAVAILABLE
// means that no answer came although the call was repeated where that is safe. Thread-safe.
class JobClient {
 public:
  explicit JobClient(std::shared_ptr<Caller> caller);
  ~JobClient();

  // Repeatable: a request id is drawn when none is given.
  absl::StatusOr<v1::Job> CreateJob(v1::CreateJobRequest request);
  absl::StatusOr<v1::Job> GetJob(const std::string& id);
  // Newest first.
  absl::StatusOr<std::vector<v1::Job>> ListJobs(const JobFilter& filter);
  absl::StatusOr<v1::Job> CancelJob(const std::string& id);
  absl::StatusOr<v1::Job> PauseJob(const std::string& id);
  absl::StatusOr<v1::Job> ResumeJob(const std::string& id);
  absl::StatusOr<v1::Job> UpdateJob(const v1::UpdateJobRequest& request);
  // Repeatable, as CreateJob is.
  absl::StatusOr<v1::Job> SteerJob(v1::SteerJobRequest request);

  // Gives `on_message` the job once, then every event exactly once and in order, and heartbeats, on
  // this thread; goes on by itself when the connection breaks. OK after the terminal event or once
  // `on_message` returns false; CANCELLED after StopWatching.
  absl::Status WatchJob(const std::string& id, const WatchOptions& options,
                        const std::function<bool(const v1::WatchJobResponse&)>& on_message);
  // Ends all watches, present and future ones. From any thread.
  void StopWatching();

  // Events after a sequence, all of them.
  absl::StatusOr<std::vector<v1::Event>> ListJobEvents(const std::string& id,
                                                       int64_t after_sequence);
  // The log from `offset` on, piece by piece. `attempt` 0: the latest.
  absl::Status ReadJobLog(const std::string& id, int attempt,
                          const std::function<void(absl::string_view)>& on_text);
  absl::StatusOr<v1::QueryMetricsResponse> QueryMetrics(const v1::QueryMetricsRequest& request);

  absl::StatusOr<std::vector<v1::WorkerStatus>> ListWorkers();
  absl::StatusOr<v1::WorkerStatus> DrainWorker(const std::string& name);

 private:
  struct Stubs;
  // One connection's worth of a watch. `last_sequence` and `seen_snapshot` carry over to the next.
  absl::Status WatchOnce(const std::string& id, int64_t* last_sequence, bool* seen_snapshot,
                         bool* finished,
                         const std::function<bool(const v1::WatchJobResponse&)>& on_message);

  const std::shared_ptr<Caller> caller_;
  const std::unique_ptr<Stubs> stubs_;

  Mutex mutex_;
  bool stopped_ THAW_GUARDED_BY(mutex_) = false;
  std::vector<grpc::ClientContext*> watches_ THAW_GUARDED_BY(mutex_);
};

}  // namespace thaw
