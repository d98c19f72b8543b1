// thaw-worker's loop: says what it does, does what it is told.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "worker/agent/artifact_cache.h"
#include "worker/agent/attempt_run.h"
#include "worker/agent/server_link.h"
#include "worker/agent/sync_state.h"

namespace thaw {

struct AgentOptions {
  std::string name;
  v1::WorkerOffer offer;
  std::string cache_dir;
  int64_t cache_bytes = int64_t{20} << 30;
  AttemptOptions attempt;
  WarmOptions warm;
};

class Agent {
 public:
  // `link` and `clock` must outlive it.
  Agent(const AgentOptions& options, ServerLink& link, const Clock& clock);

  // Runs until drained: OK then. FAILED_PRECONDITION if another process has taken this worker's
  // name; PERMISSION_DENIED and UNAUTHENTICATED if the server does not take the access token. A
  // server out of reach is waited for.
  absl::Status Run();
  // Takes no new work, hands back what runs, and lets Run end. Any thread, also again.
  void Drain();

 private:
  // Drops runs that were told to forget and have.
  void Reap();
  void Carry(const v1::DesiredAttempt& order);
  void ReportOutput(v1::SyncRequest* request);
  void MeasureOutput();

  const AgentOptions options_;
  ServerLink& link_;
  const Clock& clock_;
  SyncState state_;
  ArtifactCache cache_;
  TrainerPool trainers_;
  std::atomic<bool> draining_{false};
  // Run's thread only.
  std::map<std::string, std::unique_ptr<AttemptRun>> runs_;  // by attempt id
  std::vector<std::unique_ptr<AttemptRun>> leaving_;         // forgotten, not done yet
};

}  // namespace thaw
