#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/cli/child_process.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "common/base/clock.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"

namespace thaw {
namespace {

constexpr double kStartSeconds = 60;
constexpr double kWorkerStopSeconds = 60;
constexpr double kServerStopSeconds = 20;
constexpr double kPollSeconds = 0.1;

absl::StatusOr<std::string> OwnDirectory() {
  char path[4096];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof path);
  if (size <= 0) return ErrnoStatus(errno, "/proc/self/exe");
  const std::string text(path, static_cast<size_t>(size));
  return text.substr(0, text.rfind('/'));
}

std::string HostName() {
  char name[256] = "worker";
  gethostname(name, sizeof name - 1);
  std::string clean;
  for (const char c : absl::string_view(name)) {
    clean +=
        absl::ascii_isalnum(c) || c == '.' || c == '_' || (c == '-' && !clean.empty()) ? c : 'x';
  }
  return clean.substr(0, 100);
}

// Counts the signals that came, for the thread that waits.
class StopRequests {
 public:
  void Add() {
    MutexLock lock(mutex_);
    ++count_;
    signal_.SignalAll();
  }
  // How many came, after at most kPollSeconds or at the first one beyond `seen`.
  int Wait(int seen) {
    MutexLock lock(mutex_);
    if (count_ <= seen) signal_.WaitFor(mutex_, kPollSeconds);
    return count_;
  }

 private:
  Mutex mutex_;
  CondVar signal_;
  int count_ THAW_GUARDED_BY(mutex_) = 0;
};

// Server and worker of `thaw up`.
class LocalService {
 public:
  LocalService(const UpOptions& options, Interrupts* interrupts)
      : options_(options), scope_(interrupts, [this] { stops_.Add(); }) {}

  absl::Status Start() {
    THAW_ASSIGN_OR_RETURN(const std::string programs, OwnDirectory());
    THAW_RETURN_IF_ERROR(MakeDirectories(options_.data_dir, 0700));
    THAW_RETURN_IF_ERROR(RemoveTree(PortFile()));
    THAW_ASSIGN_OR_RETURN(
        ChildProcess server,
        ChildProcess::Start({absl::StrCat(programs, "/thawd"), "--data_dir", options_.data_dir,
                             "--listen", options_.listen, "--metrics_listen",
                             options_.metrics_listen, "--port_file", PortFile()},
                            absl::StrCat(options_.data_dir, "/thawd.log")));
    server_ = std::move(server);
    THAW_RETURN_IF_ERROR(Await("the server to answer", [this] { return ServerAnswers(); }));
    const std::string token = absl::StrCat(options_.data_dir, "/worker_token");
    THAW_ASSIGN_OR_RETURN(
        ChildProcess worker,
        ChildProcess::Start(
            {absl::StrCat(programs, "/thaw-worker"), "--server", listen_, "--token_file", token,
             "--name", HostName(), "--work_dir", absl::StrCat(options_.data_dir, "/worker")},
            absl::StrCat(options_.data_dir, "/thaw-worker.log")));
    worker_ = std::move(worker);
    return Await("the worker to connect", [this] { return WorkerConnected(); });
  }

  void Announce() const {
    Print("server   %s\nmetrics  http://%s/metrics\nworker   %s\ndata     %s\n", listen_.c_str(),
          metrics_listen_.c_str(), HostName().c_str(), options_.data_dir.c_str());
    if (options_.data_dir != DefaultDataDirectory()) {
      Print(
          "for thaw in other terminals:\n  export THAW_SERVER=%s THAW_TOKEN_FILE=%s/access_token\n",
          listen_.c_str(), options_.data_dir.c_str());
    }
    Print("logs     %s %s\nCtrl-C stops both\n", server_->log_path().c_str(),
          worker_->log_path().c_str());
    std::fflush(stdout);
  }

  // Until a signal comes (OK) or one of the two ends.
  absl::Status Run() {
    while (stops_.Wait(0) == 0) THAW_RETURN_IF_ERROR(CheckAlive());
    return absl::OkStatus();
  }

  // The worker first, so that it can hand back what it runs; a signal more makes it quicker.
  void Stop() {
    if (worker_.has_value()) StopChild(&*worker_, kWorkerStopSeconds);
    if (server_.has_value()) StopChild(&*server_, kServerStopSeconds);
  }

 private:
  std::string PortFile() const { return absl::StrCat(options_.data_dir, "/ports.json"); }

  absl::Status CheckAlive() {
    for (std::optional<ChildProcess>* child : {&server_, &worker_}) {
      if (!child->has_value() || !(*child)->Ended().has_value()) continue;
      return absl::AbortedError(absl::StrCat((*child)->name(), " ended (", *(*child)->Ended(),
                                             "); the end of ", (*child)->log_path(), ":\n",
                                             (*child)->LogTail()));
    }
    return absl::OkStatus();
  }

  absl::Status Await(absl::string_view what, const std::function<bool()>& done) {
    const int64_t begin = RealClock().BootMicros();
    while (!done()) {
      if (stops_.Wait(0) > 0) return absl::CancelledError("stopped while starting");
      THAW_RETURN_IF_ERROR(CheckAlive());
      if (static_cast<double>(RealClock().BootMicros() - begin) * 1e-6 > kStartSeconds) {
        return absl::DeadlineExceededError(absl::StrCat("waited ", kStartSeconds, " s for ", what,
                                                        "; see the logs in ", options_.data_dir));
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<v1::WorkerStatus>> Workers() {
    if (client_ == nullptr) {
      ConnectionOptions options;
      options.server = listen_;
      options.token_file = absl::StrCat(options_.data_dir, "/access_token");
      options.call_seconds = 2;
      options.retry_seconds = 0;
      THAW_ASSIGN_OR_RETURN(client_, ThawClient::Connect(options));
    }
    return client_->jobs().ListWorkers();
  }
  // The server says where it listens when it is ready; only it knows what port 0 became.
  bool ServerAnswers() {
    const auto ports = ReadJsonFile(PortFile());
    if (!ports.ok()) return false;
    listen_ = ports->value("listen", options_.listen);
    metrics_listen_ = ports->value("metrics_listen", options_.metrics_listen);
    return Workers().ok();
  }
  bool WorkerConnected() {
    const auto workers = Workers();
    return workers.ok() && std::any_of(workers->begin(), workers->end(), [](const auto& worker) {
             return worker.worker() == HostName() && worker.connected();
           });
  }

  void StopChild(ChildProcess* child, double seconds) {
    child->Terminate();
    const int64_t begin = RealClock().BootMicros();
    int seen = stops_.Wait(0);
    while (!child->Ended().has_value()) {
      const int stops = stops_.Wait(seen);
      if (stops > seen) child->Terminate();
      seen = stops;
      if (static_cast<double>(RealClock().BootMicros() - begin) * 1e-6 > seconds) child->Kill();
    }
  }

  const UpOptions options_;
  StopRequests stops_;
  Interrupts::Scope scope_;
  std::optional<ChildProcess> server_;
  std::optional<ChildProcess> worker_;
  std::string listen_;  // as the server tells them
  std::string metrics_listen_;
  std::unique_ptr<ThawClient> client_;
};

}  // namespace

ExitCode RunUp(const UpOptions& options, Interrupts* interrupts) {
  if (!IsLoopbackAddress(options.listen) || !IsLoopbackAddress(options.metrics_listen)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--listen ", options.listen, " or --metrics_listen ", options.metrics_listen,
        " is not on this machine; thaw up serves 127.0.0.1, thawd with TLS the network"));
  }
  LocalService service(options, interrupts);
  absl::Status status = service.Start();
  if (status.ok()) {
    service.Announce();
    status = service.Run();
  }
  service.Stop();
  if (status.ok() || absl::IsCancelled(status)) return kExitOk;
  return status;
}

}  // namespace thaw
