// What a Store owns besides its queue: connections, listeners, counters. Only for the files of this
// folder.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/mutex.h"
#include "common/base/unique_fd.h"
#include "server/jobs/database.h"
#include "server/jobs/store.h"

namespace thaw {

// Thread-safe but for `writer`, which is the committing thread's.
class StoreState {
 public:
  explicit StoreState(StoreOptions options) : options(std::move(options)) {}

  // On the committing thread, after a commit: counts and tells the listeners.
  void Publish(const Transaction::Effects& effects);

  // A connection for reading; waits while all are in use.
  std::unique_ptr<Connection> TakeReader();
  void ReturnReader(std::unique_ptr<Connection> reader);

  uint64_t AddEventListener(const std::string& job, std::function<void()> callback);
  void RemoveEventListener(const std::string& job, uint64_t id);

  template <typename Callback>
  using Listeners = std::map<uint64_t, Callback>;
  template <typename Callback>
  uint64_t Add(Listeners<Callback>& listeners, Callback callback) {
    MutexLock lock(listeners_mutex);
    listeners.emplace(++last_listener, std::move(callback));
    return last_listener;
  }
  template <typename Callback>
  void Remove(Listeners<Callback>& listeners, uint64_t id) {
    MutexLock lock(listeners_mutex);
    listeners.erase(id);
  }

  const StoreOptions options;
  UniqueFd lock;  // flock on data_dir/lock
  Connection writer;
  std::string path;  // of the database

  std::atomic<int64_t> commits{0};
  std::atomic<int64_t> committed_requests{0};
  std::atomic<int64_t> fenced_writes{0};
  std::atomic<int64_t> attempts_lost{0};

  // Held while callbacks run, so that a removed listener is never called again.
  Mutex listeners_mutex;
  uint64_t last_listener THAW_GUARDED_BY(listeners_mutex) = 0;
  std::map<std::string, Listeners<std::function<void()>>> event_listeners
      THAW_GUARDED_BY(listeners_mutex);
  Listeners<std::function<void(const std::vector<JobView>&)>> job_listeners
      THAW_GUARDED_BY(listeners_mutex);
  Listeners<std::function<void(const std::vector<std::string>&)>> removal_listeners
      THAW_GUARDED_BY(listeners_mutex);

  mutable Mutex mutex;
  CondVar reader_returned;
  std::vector<std::unique_ptr<Connection>> idle_readers THAW_GUARDED_BY(mutex);
  std::map<v1::Job::State, int64_t> jobs_by_state THAW_GUARDED_BY(mutex);
};

}  // namespace thaw
