// The one place that remembers: jobs, attempts, events, metrics, artifacts, workers, in SQLite
// below `data_dir`, which must be a local disk.
//
// Promises: what Write has answered OK survives kill -9 and power cuts; a state change and its
// event are one transaction; nobody sees half of one. One connection writes, and one thread at a
// time commits on it, which the others wait for; requests that wait together are committed
// together, each behind its own savepoint. Readers never block it.
//
// The operations are free functions over Transaction (which is also a Reader) in job_table.h,
// attempt_table.h, artifact_table.h, event_log.h and worker_table.h:
//   absl::StatusOr<v1::Job> job = store.Write([&](Transaction& t) { return CancelJob(t, owner, id);
//   }); absl::StatusOr<v1::Job> job = store.Read([&](Reader& r) { return GetJob(r, owner, id); });
//
// Thread-safe. An I/O error of the disk ends the process (after one, the kernel may have dropped
// pages that it calls written); a full disk is RESOURCE_EXHAUSTED and writing works again when
// there is room.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "server/jobs/records.h"

namespace thaw {

class Connection;
class StoreState;
class WriteQueue;

struct StoreOptions {
  std::string data_dir;
  const Clock* clock = &RealClock();
  // Connections for reading; as many reads run at once.
  int readers = 4;
  // Requests in one transaction at most: bounds the latency of the first.
  int max_group = 256;
  // First wait before a lost or crashed attempt is replaced; doubled each time.
  double retry_backoff_seconds = 1;
  double max_retry_backoff_seconds = 300;
  // Metric points are kept whole while younger than this and while all of them take less than that.
  double metrics_full_seconds = 30 * 86400.0;
  int64_t metrics_full_bytes = int64_t{2} << 30;
  // Hooks for metrics, called on the thread that commits; must be quick.
  std::function<void(double)> on_commit_seconds;
  std::function<void(double)> on_queue_wait_seconds;
};

// Read access within one transaction. Used on one thread, never kept.
class Reader {
 public:
  Reader(Connection& connection, StoreState& state) : connection_(connection), state_(state) {}
  Connection& connection() { return connection_; }
  const StoreOptions& options() const;
  int64_t WallMicros() const;
  // An attempt was refused by its fence.
  void CountFenced();

 private:
  Connection& connection_;
  StoreState& state_;
};

// Write access within one savepoint, on the thread that commits. Collects what listeners hear after
// the commit.
class Transaction : public Reader {
 public:
  using Reader::Reader;
  struct Effects {
    std::vector<std::pair<v1::Job::State, v1::Job::State>> moves;  // from -> to, for the counts
    std::vector<JobView> changed;                                  // newest last
    std::vector<std::string> appended;                             // jobs with new events
    std::vector<std::string> removed_artifacts;
    std::vector<double> queue_waits;  // seconds
    int64_t attempts_lost = 0;
  };
  Effects& effects() { return effects_; }

 private:
  Effects effects_;
};

// Ends a subscription when it goes; no callback runs after that.
class Subscription {
 public:
  Subscription() = default;
  explicit Subscription(std::function<void()> cancel) : cancel_(std::move(cancel)) {}
  Subscription(Subscription&& other) noexcept : cancel_(std::exchange(other.cancel_, nullptr)) {}
  Subscription& operator=(Subscription&& other) noexcept {
    if (this != &other) Reset(), cancel_ = std::exchange(other.cancel_, nullptr);
    return *this;
  }
  ~Subscription() { Reset(); }
  void Reset() {
    if (cancel_) std::exchange(cancel_, nullptr)();
  }

 private:
  std::function<void()> cancel_;
};

class Store {
 public:
  // Refuses, in words for the user: another server on the directory, a network file system, a newer
  // schema, a damaged database, a directory that cannot be written.
  static absl::StatusOr<std::unique_ptr<Store>> Open(StoreOptions options);
  // Commits what is queued, then closes. No caller may be inside.
  ~Store();

  // Runs `fn` on a thread that commits, at most once, and `done` there after the commit (or the
  // rollback of what `fn` did, if it fails). `done` must only enqueue. Neither may call a blocking
  // function of the store.
  void Enqueue(std::function<absl::Status(Transaction&)> fn,
               std::function<void(absl::Status)> done);

  // Blocking forms. `fn` gives an absl::Status or an absl::StatusOr<T>, which is what comes back
  // once it is durable. Not while committing (in `fn`, `done` or an observer), and not with a lock
  // held that those take.
  template <typename F>
  auto Write(F fn) -> std::invoke_result_t<F, Transaction&>;
  template <typename F>
  auto Read(F fn) -> std::invoke_result_t<F, Reader&>;

  // Waits until everything enqueued so far is committed and its callbacks have run.
  void Flush();

  // Callbacks run on the committing thread after the commit, in the order of commits, and must only
  // enqueue: no call into the store, no Reset of a subscription. Every time events were appended to
  // the job. One call may stand for several events.
  Subscription SubscribeEvents(const std::string& job, std::function<void()> callback);
  // Every job that a commit changed (state, priority, attempt), as it then was.
  Subscription ObserveJobs(std::function<void(const std::vector<JobView>&)> callback);
  // Ids of artifacts whose rows a commit removed (old checkpoints, checkpoints of ended jobs,
  // deletions): their directories can go.
  Subscription ObserveRemovedArtifacts(
      std::function<void(const std::vector<std::string>&)> callback);

  StoreStats Stats() const;
  // A write for a stale attempt was refused.
  void CountFenced();

 private:
  explicit Store(std::unique_ptr<StoreState> state);
  absl::Status WriteAndWait(const std::function<absl::Status(Transaction&)>& fn);
  absl::Status ReadOnce(const std::function<void(Reader&)>& fn);

  std::unique_ptr<StoreState> state_;
  std::unique_ptr<WriteQueue> queue_;
};

template <typename F>
auto Store::Write(F fn) -> std::invoke_result_t<F, Transaction&> {
  using Result = std::invoke_result_t<F, Transaction&>;
  std::optional<Result> result;
  const absl::Status committed = WriteAndWait([&](Transaction& transaction) -> absl::Status {
    result.emplace(fn(transaction));
    if constexpr (std::is_same_v<Result, absl::Status>) {
      return *result;
    } else {
      return result->status();
    }
  });
  if (!committed.ok()) return committed;
  return *std::move(result);
}

template <typename F>
auto Store::Read(F fn) -> std::invoke_result_t<F, Reader&> {
  std::optional<std::invoke_result_t<F, Reader&>> result;
  absl::Status status = ReadOnce([&](Reader& reader) { result.emplace(fn(reader)); });
  if (!status.ok()) return status;
  return *std::move(result);
}

}  // namespace thaw
