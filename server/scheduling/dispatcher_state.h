// What the dispatcher keeps in memory, all under one mutex. Only for the files of this folder.
//
// Truth is in the store; this follows it. Jobs and live attempts change only in OnJobsChanged,
// which the store calls after every commit, in order; what a worker's report adds to an attempt
// (accepted, acknowledged) comes with the completion of its write, just after.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/base/mutex.h"
#include "server/jobs/records.h"
#include "server/jobs/store.h"
#include "server/scheduling/dispatcher.h"
#include "server/scheduling/scheduler.h"

namespace thaw {

class Dispatcher::Impl {
 public:
  Impl(Store& store, const Clock& clock, DispatcherOptions options);
  ~Impl();

  absl::Status Start();
  void Stop();
  uint64_t Sync(const v1::SyncRequest& request, SyncDone done);
  void CancelSync(uint64_t ticket);
  std::vector<v1::WorkerStatus> ListWorkers() const;
  absl::StatusOr<v1::WorkerStatus> DrainWorker(const std::string& name);
  void SetHold(const std::string& reason);
  void FillQueue(v1::Job* job) const;
  DispatcherStats Stats() const;
  void Tick();
  int64_t NextDeadline() const;

 private:
  using Arrival = std::chrono::steady_clock::time_point;
  // A Sync that is not answered yet.
  struct Call {
    std::string worker;
    std::string incarnation;
    int64_t number = 0;
    SyncDone done;
    std::vector<std::pair<std::string, std::string>> reported;  // job, attempt id
    int writes = 0;                                             // not committed yet
    absl::Status status;                                        // of those that are
    int64_t hold_until = 0;
    Arrival arrived;
  };
  struct Worker {
    WorkerRecord record;
    bool seen = false;         // since start
    bool lease_stands = true;  // false once its lease and the grace have passed
    bool leaving = false;      // says so itself
    int64_t last_number = 0;
    int64_t last_sync = 0;  // BootMicros; at first the start
    uint64_t call = 0;      // its newest, 0: none
    std::set<std::string> attempts;
    bool draining() const { return leaving || record.draining; }
  };
  struct Live {
    std::string job;
    std::string owner;
    std::string worker;
    v1::Job::State job_state = v1::Job::STATE_UNSPECIFIED;
    Hold hold;
    std::vector<v1::SteeringRecord> steerings;  // not told of as applied
    int64_t begun = 0;                          // BootMicros
    bool accepted = false;
    std::string incarnation;      // that accepted it, or that it was last sent to
    int64_t accepted_number = 0;  // Sync that first reported it
    int64_t acknowledged = 0;
    std::optional<v1::Assignment> assignment;  // until it is accepted
    bool sent = false;                         // to a worker, ever
    int64_t sent_number = 0;                   // Sync whose answer last carried it
    bool ending = false;                       // its loss or withdrawal is being written
    int64_t retry_at = 0;                      // BootMicros: not before, after such a write failed
  };
  // A queued job whose attempt is being written.
  struct Given {
    QueuedJob job;
    std::string worker;
    Hold hold;
  };
  // Who waits where, as it was when somebody last asked.
  struct QueueView {
    int64_t made = 0;                             // BootMicros
    absl::flat_hash_map<int64_t, int> positions;  // by the number of the job
    Fleet fleet{{}};
    int draining_workers = 0;
  };
  using Actions = std::vector<std::function<void()>>;

  // All below with mutex_ held.
  absl::Status CheckIncarnation(const Worker& worker, const v1::SyncRequest& request) const;
  uint64_t Admit(const v1::SyncRequest& request, Arrival arrived, SyncDone done, Actions* actions);
  void Report(uint64_t ticket, const v1::SyncRequest& request, const v1::AttemptReport& report);
  void ReportStale(uint64_t ticket, const v1::SyncRequest& request,
                   const v1::AttemptReport& report);
  void FindMissing(uint64_t ticket, const Worker& worker, const v1::SyncRequest& request);
  void Drop(uint64_t ticket, const std::string& attempt_id, Live& live, const std::string& detail);
  void Withdraw(uint64_t ticket, const std::string& attempt_id, Live& live);
  void EndLive(uint64_t ticket, const std::string& attempt_id, Live& live,
               std::function<absl::Status(Transaction&)> fn);
  // Writes for a call (0: for nobody). `after` runs on the committing thread with mutex_ held.
  void Write(uint64_t ticket, std::function<absl::Status(Transaction&)> fn,
             std::function<void(const absl::Status&)> after);
  void Accept(const AttemptRecord& attempt);
  void OnJobsChanged(const std::vector<JobView>& views);
  void BackOff(const std::string& job, int64_t until);
  // Whether it was queued.
  bool RemoveQueued(const std::string& job);
  // What is scheduled, or said of the queue, may be another thing now.
  void Changed();
  void AddLive(const JobView& view);
  void RemoveLive(const std::string& attempt_id);

  // The worker's held Sync may have an answer now.
  void Consider(const Worker& worker);

  // Of the workers whose time has come: leases end, and the long silent are forgotten.
  void CheckWorkers(int64_t now);
  void Expire(const std::string& name, Worker& worker, int64_t now);
  void TakeBackOffers(int64_t now);
  void ThinOldMetrics(int64_t now);
  SchedulerInput BuildInput(int64_t now) const;
  const QueueView& View(int64_t now) const;
  void RunScheduler(int64_t now);
  void Begin(const JobAssignment& assignment);
  void AnswerCalls(int64_t now, Actions* actions);
  // Nothing to say yet: nullopt.
  std::optional<v1::SyncResponse> Answer(const Call& call, Worker& worker, int64_t now);
  v1::DesiredAttempt::Verdict VerdictOn(const Live& live, const Worker& worker) const;
  double BusyInterval() const;
  // Connected, and about to ask again.
  bool IsAvailable(const Worker& worker, int64_t now) const;
  bool HasFreeSlot(int64_t now) const;
  // How long to leave between two runs of the scheduler, and between two views of the queue, so
  // that many workers and long queues do not take the processor.
  int64_t ScheduleGap() const;
  int64_t ViewGap() const;
  int64_t LeaseEnd(const Worker& worker) const;
  v1::WorkerStatus StatusOf(const Worker& worker) const;
  void DecayUse(int64_t now);
  void ComputeDeadline(int64_t now);
  void Wake();
  void Loop();

  Store& store_;
  const Clock& clock_;
  const DispatcherOptions options_;

  mutable Mutex mutex_;
  CondVar woken_;
  bool started_ THAW_GUARDED_BY(mutex_) = false;
  bool stopped_ THAW_GUARDED_BY(mutex_) = false;
  bool wake_ THAW_GUARDED_BY(mutex_) = false;
  int64_t deadline_ THAW_GUARDED_BY(mutex_) = 0;
  uint64_t last_ticket_ THAW_GUARDED_BY(mutex_) = 0;
  // In the order of arrival, and so of hold_until.
  std::map<uint64_t, Call> calls_ THAW_GUARDED_BY(mutex_);
  // A look must not walk through all that hang: these are the ones of whom something is new.
  std::set<uint64_t> considered_ THAW_GUARDED_BY(mutex_);
  std::map<std::string, Worker> workers_ THAW_GUARDED_BY(mutex_);
  // BootMicros: nothing is due of any worker before.
  int64_t next_worker_check_ THAW_GUARDED_BY(mutex_) = 0;
  std::map<std::string, Live> live_ THAW_GUARDED_BY(mutex_);               // by attempt id
  std::map<std::string, std::string> attempt_of_ THAW_GUARDED_BY(mutex_);  // job -> live attempt
  std::set<std::string> unsent_ THAW_GUARDED_BY(mutex_);  // attempts that no worker has heard of
  JobQueue queue_ THAW_GUARDED_BY(mutex_);
  std::map<std::string, Given> given_ THAW_GUARDED_BY(mutex_);  // not in queue_ meanwhile
  // When a back-off ends, and whose; BootMicros.
  std::set<std::pair<int64_t, std::string>> backing_off_ THAW_GUARDED_BY(mutex_);
  mutable QueueView view_ THAW_GUARDED_BY(mutex_);
  mutable bool view_outdated_ THAW_GUARDED_BY(mutex_) = true;
  std::map<std::string, double> recent_use_ THAW_GUARDED_BY(mutex_);
  int64_t use_decayed_ THAW_GUARDED_BY(mutex_) = 0;
  std::string hold_ THAW_GUARDED_BY(mutex_);  // why nothing starts; empty: it does
  bool reschedule_ THAW_GUARDED_BY(mutex_) = true;
  int64_t scheduled_ THAW_GUARDED_BY(mutex_) = 0;  // BootMicros of the last Schedule
  int64_t next_thinning_ THAW_GUARDED_BY(mutex_) = 0;
  int64_t leases_lost_ THAW_GUARDED_BY(mutex_) = 0;
  int64_t stale_reports_ THAW_GUARDED_BY(mutex_) = 0;

  Subscription subscription_;
  std::thread thread_;
};

}  // namespace thaw
