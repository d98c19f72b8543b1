// One attempt on this worker, from its inputs to its end.
#pragma once

#include <atomic>
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
#include "worker/agent/trainer_pool.h"
#include "worker/agent/trainer_process.h"
#include "worker/agent/trainer_watch.h"
#include "worker/agent/uploads.h"

namespace thaw {

struct AttemptOptions {
  std::string trainer;       // path of the program
  std::string attempts_dir;  // each attempt gets <attempts_dir>/<attempt id>
  int threads = 0;           // for the trainer; 0: it decides
  TrainerPatience patience;
};

// Owns a thread that prepares, starts, watches, uploads and reports through `state`, to which it
// adds the attempt at once. Everything given by reference must outlive it.
class AttemptRun {
 public:
  AttemptRun(const v1::Assignment& assignment, const AttemptOptions& options, SyncState& state,
             ArtifactCache& cache, TrainerPool& trainers, ServerLink& link, const Clock& clock);
  // Forgets, waits for done() and removes the attempt's files.
  ~AttemptRun();

  // Does what the server asks; STOP outranks PAUSE and HAND_BACK, and FORGET, which kills the
  // trainer at once, everything. Returns at once.
  void Obey(v1::DesiredAttempt::Verdict verdict);
  // Passes on what is new of it, in order, once to each trainer. Returns at once.
  void Steer(const google::protobuf::RepeatedPtrField<v1::SteeringRecord>& steerings);
  // Nothing of it runs any more.
  bool done() const { return done_; }
  // The trainer's log.
  std::string log_file() const { return directory_ + "/trainer.log"; }

 private:
  void Main();
  absl::StatusOr<internal::Run> Prepare();
  v1::AttemptEnd Supervise(internal::Run run);
  // Runs it on process_ until that has ended, or waits for more work; the status of waitpid(2).
  int RunOnTrainer(const internal::Run& run);
  // Passes frames on until the trainer has closed its socket, waits, or can no longer be believed.
  void WatchTrainer();
  // It has done its work and waits for more.
  bool TrainerWaits() const;
  // The next frame, if one comes within the time of a look; `at_end` once none will.
  std::optional<internal::FromTrainer> NextFrame(bool* at_end);
  void ReadFrames(int socket);
  // An error says why the trainer is not to be believed any more.
  absl::Status Handle(internal::FromTrainer& frame);
  absl::Status HandleCheckpoint(const internal::CheckpointReady& ready);
  void SendOrders();
  void SendSteerings();
  void HoldWhileSilent();
  void CheckOutput();
  void Send(const internal::ToTrainer& frame);
  // SIGKILL; the first reason given counts.
  void Kill(absl::string_view why);
  v1::AttemptEnd AfterExit(int wait_status, int64_t memory_kills_before);
  v1::AttemptEnd PublishResult();

  v1::DesiredAttempt::Verdict Ordered() const;
  bool StopOrdered() const;

  const v1::Assignment assignment_;
  const std::string id_;
  const AttemptOptions& options_;
  const std::string directory_;
  const std::string work_dir_;  // the trainer's
  SyncState& state_;
  ArtifactCache& cache_;
  TrainerPool& trainers_;
  ServerLink& link_;
  const Clock& clock_;
  // Of attempt_inputs.h; empty: its trainer ends with it.
  const std::string warm_key_;

  mutable Mutex mutex_;
  CondVar changed_;
  v1::DesiredAttempt::Verdict ordered_ THAW_GUARDED_BY(mutex_) = v1::DesiredAttempt::RUN;
  std::vector<v1::SteeringRecord> steerings_ THAW_GUARDED_BY(mutex_);  // by number
  size_t steerings_sent_ THAW_GUARDED_BY(mutex_) = 0;                  // to this trainer
  std::deque<internal::FromTrainer> frames_ THAW_GUARDED_BY(mutex_);
  bool frames_ended_ THAW_GUARDED_BY(mutex_) = false;
  absl::Status frames_status_ THAW_GUARDED_BY(mutex_);

  // Used on the attempt's own thread only.
  std::vector<ArtifactCache::Pin> pins_;
  std::unique_ptr<TrainerProcess> process_;
  std::unique_ptr<CheckpointUploads> uploads_;
  std::unique_ptr<TrainerWatch> watch_;
  EventFilter filter_;
  v1::DesiredAttempt::Verdict sent_ = v1::DesiredAttempt::RUN;
  std::optional<internal::Ended> ended_;
  bool heard_ = false;         // the trainer has sent a frame
  int64_t memory_bytes_ = 0;   // that the trainer holds
  std::string why_killed_;     // empty: nothing is held against the trainer
  bool held_in_vain_ = false;  // the server was away for too long
  bool holding_ = false;
  int64_t output_checked_ = 0;  // BootMicros

  std::atomic<bool> done_{false};
  std::thread thread_;
};

}  // namespace thaw
