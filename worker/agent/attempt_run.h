// One attempt on this worker, from its inputs to its end.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "thaw/internal/trainer.pb.h"
#include "thaw/v1/worker_service.pb.h"
#include "worker/agent/artifact_cache.h"
#include "worker/agent/event_filter.h"
#include "worker/agent/server_link.h"
#include "worker/agent/sync_state.h"
#include "worker/agent/trainer_process.h"
#include "worker/agent/uploads.h"

namespace thaw {

struct AttemptOptions {
  std::string trainer;       // path of the program
  std::string attempts_dir;  // each attempt gets <attempts_dir>/<attempt id>
  int threads = 0;           // for the trainer; 0: it decides
  // No sign of life for max(this, 20 median steps) is a hang.
  double hang_seconds = 120;
  // How long a trainer is held after the lease has ended, waiting for the server.
  double hold_seconds = 600;
  // Between a request to stop and SIGKILL.
  double stop_seconds = 10;
};

// Owns a thread that prepares, starts, watches, uploads and reports through `state`. Everything
// given by reference must outlive it.
class AttemptRun {
 public:
  AttemptRun(const v1::Assignment& assignment, const AttemptOptions& options, SyncState& state,
             ArtifactCache& cache, ServerLink& link, const Clock& clock);
  // Stops the trainer if it still runs, and removes the attempt's files.
  ~AttemptRun();

  // Does what the server asks; STOP and FORGET outrank what came before. Returns at once.
  void Obey(v1::DesiredAttempt::Verdict verdict);
  // The trainer's log.
  std::string log_file() const { return directory_ + "/trainer.log"; }

 private:
  void Main();
  absl::StatusOr<internal::Run> Prepare();
  v1::AttemptEnd Supervise(const internal::Run& run);
  // False once the trainer is not to be believed any more; why_killed_ says why.
  bool Handle(internal::FromTrainer& frame);
  void SendOrders();
  void HoldWhileSilent();
  v1::AttemptEnd FinishResult();
  v1::AttemptEnd AfterExit(int wait_status, int64_t memory_kills_before);
  void ReadFrames(int socket);
  bool StopOrdered() const;
  v1::DesiredAttempt::Verdict Ordered() const;
  void Send(const internal::ToTrainer& frame);
  void Kill(const std::string& why);

  const v1::Assignment assignment_;
  const std::string id_;
  const AttemptOptions& options_;
  const std::string directory_;
  SyncState& state_;
  ArtifactCache& cache_;
  ServerLink& link_;
  const Clock& clock_;

  mutable Mutex mutex_;
  CondVar changed_;
  v1::DesiredAttempt::Verdict ordered_ THAW_GUARDED_BY(mutex_) = v1::DesiredAttempt::RUN;
  std::deque<internal::FromTrainer> frames_ THAW_GUARDED_BY(mutex_);
  bool frames_ended_ THAW_GUARDED_BY(mutex_) = false;
  absl::Status frames_status_ THAW_GUARDED_BY(mutex_);

  // Used on the attempt's own thread only.
  std::vector<ArtifactCache::Pin> pins_;
  std::unique_ptr<TrainerProcess> process_;
  std::unique_ptr<CheckpointUploads> uploads_;
  EventFilter filter_;
  v1::DesiredAttempt::Verdict sent_ = v1::DesiredAttempt::RUN;
  std::optional<internal::Ended> ended_;
  std::string why_killed_;
  int64_t last_step_ = 0;
  int64_t last_beat_ = 0;  // BootMicros
  int64_t stop_sent_ = 0;  // BootMicros; 0: not yet
  double median_step_seconds_ = 0;
  bool holding_ = false;

  std::thread thread_;
};

}  // namespace thaw
