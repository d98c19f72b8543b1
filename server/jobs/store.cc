#include "server/jobs/store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "server/jobs/schema.h"
#include "server/jobs/store_state.h"
#include "server/jobs/write_queue.h"

namespace thaw {
namespace {

// Held for as long as the process lives, so that a crash lets go of it.
absl::StatusOr<UniqueFd> LockDataDir(const std::string& directory) {
  const std::string path = directory + "/lock";
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("open ", path));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    char holder[32] = {};
    const ssize_t length = pread(fd.get(), holder, sizeof(holder) - 1, 0);
    return absl::FailedPreconditionError(absl::StrCat(
        "another server",
        length > 0 ? absl::StrCat(" (process ", absl::StripSuffix(holder, "\n"), ")") : "",
        " uses data_dir ", directory, ": stop it or choose another data_dir"));
  }
  const std::string self = absl::StrCat(getpid(), "\n");
  if (ftruncate(fd.get(), 0) != 0 ||
      pwrite(fd.get(), self.data(), self.size(), 0) != static_cast<ssize_t>(self.size())) {
    return ErrnoStatus(errno, absl::StrCat("write ", path));
  }
  return fd;
}

absl::Status CountJobs(StoreState& state) {
  MutexLock lock(state.mutex);
  for (int value = v1::Job::State_MIN; value <= v1::Job::State_MAX; ++value) {
    if (value != v1::Job::STATE_UNSPECIFIED) {
      state.jobs_by_state[static_cast<v1::Job::State>(value)] = 0;
    }
  }
  Statement rows = state.writer.Prepare("SELECT state, count(*) FROM jobs GROUP BY state");
  while (rows.Step()) {
    state.jobs_by_state[static_cast<v1::Job::State>(rows.GetInt(0))] = rows.GetInt(1);
  }
  return rows.status();
}

}  // namespace

const StoreOptions& Reader::options() const { return state_.options; }
int64_t Reader::WallMicros() const { return state_.options.clock->WallMicros(); }
void Reader::CountFenced() { state_.fenced_writes += 1; }

void StoreState::Publish(const Transaction::Effects& effects) {
  {
    MutexLock guard(mutex);
    for (const auto& [from, to] : effects.moves) {
      if (from != v1::Job::STATE_UNSPECIFIED) --jobs_by_state[from];
      ++jobs_by_state[to];
    }
  }
  attempts_lost += effects.attempts_lost;
  if (options.on_queue_wait_seconds) {
    for (double seconds : effects.queue_waits) options.on_queue_wait_seconds(seconds);
  }
  MutexLock guard(listeners_mutex);
  if (!effects.changed.empty()) {
    for (const auto& [id, callback] : job_listeners) callback(effects.changed);
  }
  if (!event_listeners.empty()) {
    const std::set<std::string> jobs(effects.appended.begin(), effects.appended.end());
    for (const std::string& job : jobs) {
      const auto found = event_listeners.find(job);
      if (found == event_listeners.end()) continue;
      for (const auto& [id, callback] : found->second) callback();
    }
  }
  if (!effects.removed_artifacts.empty()) {
    for (const auto& [id, callback] : removal_listeners) callback(effects.removed_artifacts);
  }
}

std::unique_ptr<Connection> StoreState::TakeReader() {
  MutexLock guard(mutex);
  while (idle_readers.empty()) reader_returned.Wait(mutex);
  std::unique_ptr<Connection> reader = std::move(idle_readers.back());
  idle_readers.pop_back();
  return reader;
}

void StoreState::ReturnReader(std::unique_ptr<Connection> reader) {
  {
    MutexLock guard(mutex);
    idle_readers.push_back(std::move(reader));
  }
  reader_returned.Signal();
}

uint64_t StoreState::AddEventListener(const std::string& job, std::function<void()> callback) {
  MutexLock guard(listeners_mutex);
  event_listeners[job].emplace(++last_listener, std::move(callback));
  return last_listener;
}

void StoreState::RemoveEventListener(const std::string& job, uint64_t id) {
  MutexLock guard(listeners_mutex);
  const auto found = event_listeners.find(job);
  if (found == event_listeners.end()) return;
  found->second.erase(id);
  if (found->second.empty()) event_listeners.erase(found);
}

Store::Store(std::unique_ptr<StoreState> state)
    : state_(std::move(state)), queue_(std::make_unique<WriteQueue>(*state_)) {}

Store::~Store() = default;

absl::StatusOr<std::unique_ptr<Store>> Store::Open(StoreOptions options) {
  const std::string directory = options.data_dir;
  THAW_RETURN_IF_ERROR(Annotate(MakeDirectories(directory, 0700), "data_dir"));
  THAW_ASSIGN_OR_RETURN(const bool network, IsNetworkFileSystem(directory));
  if (network) {
    return absl::FailedPreconditionError(
        absl::StrCat("data_dir ", directory,
                     " is on a network file system, whose locks cannot be trusted: choose a "
                     "directory on a local disk"));
  }
  auto state = std::make_unique<StoreState>(std::move(options));
  state->path = directory + "/jobs.db";
  THAW_ASSIGN_OR_RETURN(state->lock, LockDataDir(directory));
  THAW_RETURN_IF_ERROR(state->writer.OpenForWriting(state->path));
  THAW_RETURN_IF_ERROR(PrepareSchema(state->writer, state->path));
  THAW_RETURN_IF_ERROR(FsyncDirectory(directory));
  THAW_RETURN_IF_ERROR(CountJobs(*state));
  for (int i = 0; i < state->options.readers; ++i) {
    auto reader = std::make_unique<Connection>();
    THAW_RETURN_IF_ERROR(reader->OpenForReading(state->path));
    state->ReturnReader(std::move(reader));
  }
  return std::unique_ptr<Store>(new Store(std::move(state)));
}

void Store::Enqueue(std::function<absl::Status(Transaction&)> fn,
                    std::function<void(absl::Status)> done) {
  queue_->Add(std::move(fn), std::move(done));
}

absl::Status Store::WriteAndWait(const std::function<absl::Status(Transaction&)>& fn) {
  return queue_->Write(fn);
}

absl::Status Store::ReadOnce(const std::function<void(Reader&)>& fn) {
  std::unique_ptr<Connection> connection = state_->TakeReader();
  absl::Status status = connection->Prepare("BEGIN").Run();
  if (status.ok()) {
    Reader reader(*connection, *state_);
    fn(reader);
    status = connection->Prepare("COMMIT").Run();
  }
  state_->ReturnReader(std::move(connection));
  return status;
}

void Store::Flush() {
  (void)Write([](Transaction&) { return absl::OkStatus(); });
}

Subscription Store::SubscribeEvents(const std::string& job, std::function<void()> callback) {
  const uint64_t id = state_->AddEventListener(job, std::move(callback));
  return Subscription([this, job, id] { state_->RemoveEventListener(job, id); });
}

Subscription Store::ObserveJobs(std::function<void(const std::vector<JobView>&)> callback) {
  const uint64_t id = state_->Add(state_->job_listeners, std::move(callback));
  return Subscription([this, id] { state_->Remove(state_->job_listeners, id); });
}

Subscription Store::ObserveRemovedArtifacts(
    std::function<void(const std::vector<std::string>&)> callback) {
  const uint64_t id = state_->Add(state_->removal_listeners, std::move(callback));
  return Subscription([this, id] { state_->Remove(state_->removal_listeners, id); });
}

StoreStats Store::Stats() const {
  StoreStats stats;
  {
    MutexLock lock(state_->mutex);
    stats.jobs = state_->jobs_by_state;
  }
  stats.write_queue = queue_->size();
  stats.commits = state_->commits;
  stats.committed_requests = state_->committed_requests;
  stats.fenced_writes = state_->fenced_writes;
  stats.attempts_lost = state_->attempts_lost;
  for (const char* suffix : {"", "-wal"}) {
    struct stat file {};
    if (stat((state_->path + suffix).c_str(), &file) == 0) stats.database_bytes += file.st_size;
  }
  return stats;
}

void Store::CountFenced() { state_->fenced_writes += 1; }

}  // namespace thaw
