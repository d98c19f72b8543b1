// The worker's half of the Sync protocol, without sockets: what to report, what the answers mean,
// when the lease ends.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "thaw/v1/worker_service.pb.h"
#include "worker/agent/event_buffer.h"

namespace thaw {

// Thread-safe: attempts report into it from their threads, the Sync loop drives it.
class SyncState {
 public:
  // `clock` must outlive it.
  SyncState(std::string worker, std::string incarnation, const Clock& clock);

  // ---- from attempts
  void Add(const v1::Assignment& assignment);  // as PREPARING
  void SetRunning(const std::string& attempt_id);
  void SetProgress(const std::string& attempt_id, const v1::Progress& progress);
  // False if the event is one too many; see EventBuffer.
  bool AddEvent(const std::string& attempt_id, const v1::Event& event);
  // The last thing an attempt says. It is reported until the server answers FORGET.
  void End(const std::string& attempt_id, const v1::AttemptEnd& end);
  void Remove(const std::string& attempt_id);
  // Waits up to `seconds` for the attempt's events up to `sequence` to be committed; true if they
  // are.
  bool WaitAcknowledged(const std::string& attempt_id, int64_t sequence, double seconds);
  // Of the attempt's newest event; 0 if there is none.
  int64_t LastSequence(const std::string& attempt_id) const;

  // ---- from the Sync loop
  // The next request. From now on its answer, and only its answer, counts.
  v1::SyncRequest BuildRequest(const v1::WorkerOffer& offer, bool draining);
  // What the answer asks for: the verdicts, without those that ask for what is done already and for
  // no steering. An answer to an older request asks for nothing.
  std::vector<v1::DesiredAttempt> Apply(const v1::SyncResponse& response);
  // Waits until the next Sync is due: `interval` seconds after the last one was sent, a tenth of
  // them when generated text waits, or at once when something urgent was reported. Wake ends it
  // early.
  void WaitUntilDue(double interval);
  void Wake();

  // Where the server's copy of the trainer's output ends.
  int64_t LogCommitted(const std::string& attempt_id) const;
  // Output that the server does not have yet: with more than a chunk of it, an end is not reported
  // yet.
  void SetLogPending(const std::string& attempt_id, int64_t bytes);

  // The lease runs from sending the last request that was answered. True before the first answer.
  bool LeaseExpired() const;
  // Seconds since then; 0 before the first answer.
  double SilentSeconds() const;
  std::vector<std::string> AttemptIds() const;

 private:
  struct Attempt {
    v1::AttemptReport report;  // without events
    EventBuffer events;
    bool ended = false;
    v1::AttemptEnd end;
    int64_t log_committed = 0;
    int64_t log_pending = 0;
    v1::DesiredAttempt::Verdict ordered = v1::DesiredAttempt::VERDICT_UNSPECIFIED;
    bool spoke = false;  // its first loss went out at once
  };

  void HurryLocked() THAW_REQUIRES(mutex_);

  const std::string worker_;
  const std::string incarnation_;
  const Clock& clock_;

  mutable Mutex mutex_;
  CondVar changed_;
  std::map<std::string, Attempt> attempts_ THAW_GUARDED_BY(mutex_);
  int64_t number_ THAW_GUARDED_BY(mutex_) = 0;
  int64_t sent_at_ THAW_GUARDED_BY(mutex_) = 0;  // BootMicros of the last request
  int64_t answered_at_ THAW_GUARDED_BY(mutex_) =
      0;  // sending time of the last answered one; 0: none yet
  double lease_seconds_ THAW_GUARDED_BY(mutex_) = 0;
  bool urgent_ THAW_GUARDED_BY(mutex_) = true;
  bool flows_ THAW_GUARDED_BY(mutex_) = false;  // generated text waits
};

}  // namespace thaw
