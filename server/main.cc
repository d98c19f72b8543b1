// thawd: opens the parts in order, waits for a signal, closes them in the opposite order.
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "nlohmann/json.hpp"
#include "server/artifacts/artifact_store.h"
#include "server/artifacts/attempt_logs.h"
#include "server/jobs/store.h"
#include "server/metrics/job_metrics.h"
#include "server/metrics/metrics_server.h"
#include "server/metrics/service_metrics.h"
#include "server/metrics/state_metrics.h"
#include "server/rpc/rpc_server.h"
#include "server/scheduling/disk_guard.h"
#include "server/scheduling/dispatcher.h"

namespace thaw {
namespace {

struct ServerFlags {
  std::string data_dir;
  std::string artifact_dir;
  std::string metrics_listen = "127.0.0.1:7434";
  std::string port_file;
  std::string log_level = "info";
  double min_free_gigabytes = 1;
  double pause_below_gigabytes = -1;
  double owner_upload_share = 0.5;
  RpcServerOptions rpc;
  DispatcherOptions dispatcher;
  StoreOptions store;
};

std::string DefaultDataDir() {
  if (const char* data = std::getenv("XDG_DATA_HOME"); data != nullptr && *data != '\0') {
    return absl::StrCat(data, "/thaw");
  }
  const char* home = std::getenv("HOME");
  return absl::StrCat(home == nullptr ? "." : home, "/.local/share/thaw");
}

void DefineFlags(CLI::App& app, ServerFlags& flags) {
  app.set_version_flag("--version", std::string("thawd ") + THAW_VERSION);
  app.add_option("--data_dir", flags.data_dir,
                 "jobs, events and access tokens; must be on a local disk. At the first start an "
                 "admin's token is written to DIR/access_token and the workers' to "
                 "DIR/worker_token")
      ->default_str(DefaultDataDir());
  app.add_option("--artifact_dir", flags.artifact_dir,
                 "models, datasets, results and checkpoints as plain directories; may be shared "
                 "storage. Default: artifacts in data_dir");
  app.add_option(
         "--listen", flags.rpc.listen,
         "host:port or unix:path for gRPC; port 0 takes a free one. Beyond this machine TLS "
         "is required")
      ->capture_default_str();
  app.add_option("--metrics_listen", flags.metrics_listen,
                 "loopback host:port for /metrics, which Prometheus reads over plain HTTP; empty: "
                 "none")
      ->capture_default_str();
  app.add_option("--port_file", flags.port_file,
                 "when ready, the chosen addresses are written here as JSON: {\"listen\", "
                 "\"metrics_listen\"}; the first also goes to data_dir/address");
  app.add_option("--log_level", flags.log_level, "what goes to stderr, one line an event")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();

  const char* access = "Access";
  app.add_option("--tokens_file", flags.rpc.owners_file,
                 "owners besides the admin: lines owner:sha256-of-token; read again on SIGHUP")
      ->group(access);
  app.add_option("--tls_cert", flags.rpc.tls_certificate, "the server's certificate chain, PEM")
      ->group(access);
  app.add_option("--tls_key", flags.rpc.tls_key, "its key, PEM")->group(access);
  app.add_option("--tls_client_ca", flags.rpc.tls_client_ca,
                 "clients must show a certificate of this CA; the URI name thaw://admin, "
                 "thaw://worker or thaw://owner/NAME in it replaces an access token")
      ->group(access);
  app.add_flag("--behind_proxy", flags.rpc.behind_proxy,
               "a proxy that bounds headers stands in front: TLS without client certificates will "
               "do beyond this machine")
      ->group(access);

  const char* limits = "Limits";
  app.add_option("--max_transfers", flags.rpc.max_transfers, "uploads and downloads at once")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str()
      ->group(limits);
  app.add_option("--max_queued_jobs", flags.rpc.max_queued_jobs, "more are refused")
      ->check(CLI::PositiveNumber)
      ->capture_default_str()
      ->group(limits);
  app.add_option("--min_free_gigabytes", flags.min_free_gigabytes,
                 "kept free for running jobs besides what their checkpoints need: never promised "
                 "to uploads; below it no job is accepted, above it paused ones go on")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->group(limits);
  app.add_option(
         "--pause_below_gigabytes", flags.pause_below_gigabytes,
         "with less free than this, besides what their checkpoints need, running jobs "
         "are paused until there is room; at most --min_free_gigabytes, of which it is half "
         "by default")
      ->check(CLI::NonNegativeNumber)
      ->default_str("half of --min_free_gigabytes")
      ->group(limits);
  app.add_option("--owner_upload_share", flags.owner_upload_share,
                 "of the room for uploads, how much the unfinished ones of one owner may hold; the "
                 "admin's are not bounded")
      ->check(CLI::Range(0.01, 1.0))
      ->capture_default_str()
      ->group(limits);

  const char* timing = "Timing, in seconds (tests shorten them)";
  const auto seconds = [&](const char* name, double& value, const char* what) {
    app.add_option(name, value, what)
        ->check(CLI::PositiveNumber)
        ->capture_default_str()
        ->group(timing);
  };
  seconds("--lease", flags.dispatcher.lease_seconds, "how long a silent worker keeps its attempts");
  seconds("--grace", flags.dispatcher.grace_seconds, "added before its jobs go to others");
  seconds("--idle_hang", flags.dispatcher.idle_hang_seconds, "how long an idle Sync is held");
  seconds("--busy_interval", flags.dispatcher.busy_interval_seconds,
          "between the Syncs of a busy worker");
  seconds("--retry_backoff", flags.store.retry_backoff_seconds,
          "before a lost attempt is replaced; doubled each time");
  seconds("--heartbeat", flags.rpc.heartbeat_seconds, "between heartbeats of a quiet watch");
  seconds("--stall", flags.rpc.stall_seconds, "before a transfer that stands still is cancelled");
  seconds("--shutdown", flags.rpc.shutdown_seconds, "for calls to end when the server stops");
}

LogLevel LevelOf(const std::string& name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "warning") return LogLevel::kWarning;
  return name == "error" ? LogLevel::kError : LogLevel::kInfo;
}

// Idle connections take a descriptor each, and a server without any left never accepts again.
void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

sigset_t BlockSignals() {
  std::signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

// `listen` with the port that was chosen; a path of a Unix socket has none.
std::string AddressWithPort(const std::string& listen, int port) {
  if (port == 0 || absl::StartsWith(listen, "unix:")) return listen;
  return absl::StrCat(listen.substr(0, listen.rfind(':')), ":", port);
}

absl::Status Announce(const ServerFlags& flags, const std::string& address,
                      const std::string& metrics_address) {
  THAW_RETURN_IF_ERROR(WriteFileAtomically(flags.data_dir + "/address", address + "\n"));
  if (!flags.port_file.empty()) {
    const nlohmann::json ports = {{"listen", address}, {"metrics_listen", metrics_address}};
    THAW_RETURN_IF_ERROR(WriteFileAtomically(flags.port_file, ports.dump() + "\n"));
  }
  THAW_LOG(kInfo, "ready", {"listen", address}, {"metrics_listen", metrics_address},
           {"data_dir", flags.data_dir}, {"version", THAW_VERSION});
  return absl::OkStatus();
}

// Returns when a signal asks to stop.
void WaitForStop(const sigset_t& signals, RpcServer& rpc) {
  int signal = 0;
  while (sigwait(&signals, &signal) == 0 && signal == SIGHUP) {
    const absl::Status status = rpc.ReloadTokens();
    THAW_LOG(kInfo, "tokens_reloaded", {"status", status.ToString()});
  }
  THAW_LOG(kInfo, "stopping", {"signal", signal});
  // From here on a second signal ends the process at once.
  for (const int again : {SIGTERM, SIGINT}) std::signal(again, SIG_DFL);
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
}

absl::Status CheckMetricsAddress(const std::string& address) {
  // The library would take a list of addresses.
  if (address.empty() || (IsLoopbackAddress(address) && !absl::StrContains(address, ','))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "--metrics_listen ", address,
      " is beyond this machine, and /metrics asks nobody who they are: give a loopback address and "
      "let a proxy with TLS or Prometheus on this machine read it"));
}

int64_t InBytes(double gigabytes) { return static_cast<int64_t>(gigabytes * (1 << 30)); }

absl::StatusOr<DiskGuardOptions> GuardOptions(const ServerFlags& flags) {
  DiskGuardOptions options;
  options.resume_above_bytes = InBytes(flags.min_free_gigabytes);
  options.pause_below_bytes = flags.pause_below_gigabytes < 0
                                  ? options.resume_above_bytes / 2
                                  : InBytes(flags.pause_below_gigabytes);
  if (options.pause_below_bytes <= options.resume_above_bytes) return options;
  return absl::InvalidArgumentError(
      absl::StrCat("--pause_below_gigabytes ", flags.pause_below_gigabytes,
                   " is more than --min_free_gigabytes ", flags.min_free_gigabytes,
                   ": give less, or jobs would never go on"));
}

absl::Status Serve(ServerFlags flags, const sigset_t& signals) {
  THAW_RETURN_IF_ERROR(CheckMetricsAddress(flags.metrics_listen));
  THAW_ASSIGN_OR_RETURN(const DiskGuardOptions guard_options, GuardOptions(flags));
  // Jobs, texts, logs and artifacts are nobody's but this user's, also in a directory that others
  // may enter.
  umask(0077);
  if (flags.artifact_dir.empty()) flags.artifact_dir = flags.data_dir + "/artifacts";
  THAW_RETURN_IF_ERROR(
      Annotate(MakeDirectories(flags.data_dir, 0700), "--data_dir cannot be used"));
  THAW_RETURN_IF_ERROR(
      Annotate(MakeDirectories(flags.artifact_dir), "--artifact_dir cannot be used"));
  flags.rpc.data_dir = flags.data_dir;

  const Clock& clock = RealClock();
  ServiceMetrics metrics(RpcServer::RpcNames());
  flags.store.data_dir = flags.data_dir;
  flags.store.on_commit_seconds = [&](double seconds) { metrics.RecordCommit(seconds); };
  flags.store.on_queue_wait_seconds = [&](double seconds) { metrics.RecordQueueWait(seconds); };
  flags.dispatcher.on_schedule_seconds = [&](double seconds) { metrics.RecordSchedule(seconds); };
  flags.dispatcher.on_sync_commit_seconds = [&](double seconds) {
    metrics.RecordSyncCommit(seconds);
  };
  THAW_ASSIGN_OR_RETURN(const auto store, Store::Open(flags.store));
  ArtifactStoreOptions artifact_options;
  artifact_options.directory = flags.artifact_dir;
  artifact_options.min_free_bytes = InBytes(flags.min_free_gigabytes);
  artifact_options.owner_upload_share = flags.owner_upload_share;
  THAW_ASSIGN_OR_RETURN(const auto artifacts, ArtifactStore::Open(artifact_options, *store, clock));
  AttemptLogs logs(flags.data_dir + "/logs");
  Dispatcher dispatcher(*store, clock, flags.dispatcher);
  THAW_RETURN_IF_ERROR(dispatcher.Start());
  DiskBudget& budget = artifacts->budget();
  DiskGuard guard(
      *store, dispatcher,
      {{.free_bytes = [&] { return FreeBytes(flags.artifact_dir); }, .takes_checkpoints = true},
       {.free_bytes = [&] { return FreeBytes(flags.data_dir); }}},
      [&](int64_t bytes) { budget.KeepForCheckpoints(bytes); }, guard_options);
  THAW_RETURN_IF_ERROR(guard.Start());

  THAW_ASSIGN_OR_RETURN(const auto rpc, RpcServer::Start(flags.rpc, *store, dispatcher, *artifacts,
                                                         logs, metrics, clock));
  const auto jobs = std::make_shared<JobMetrics>(*store, clock);
  THAW_RETURN_IF_ERROR(jobs->Start());
  std::unique_ptr<MetricsServer> metrics_server;
  std::string metrics_address;
  if (!flags.metrics_listen.empty()) {
    const auto state = std::make_shared<StateMetrics>(*store, dispatcher, *artifacts, guard,
                                                      flags.data_dir, THAW_VERSION);
    THAW_ASSIGN_OR_RETURN(
        metrics_server,
        MetricsServer::Start(flags.metrics_listen, {metrics.collectable(), state, jobs}));
    metrics_address = AddressWithPort(flags.metrics_listen, metrics_server->port());
  }
  rpc->SetServing();
  THAW_RETURN_IF_ERROR(
      Announce(flags, AddressWithPort(flags.rpc.listen, rpc->port()), metrics_address));

  WaitForStop(signals, *rpc);
  rpc->Stop();
  THAW_LOG(kInfo, "stopped");
  return absl::OkStatus();
}

}  // namespace
}  // namespace thaw

int main(int argc, char** argv) {
  CLI::App app{
      "thawd: takes fine-tune jobs over gRPC, gives them to workers, streams their progress and "
      "keeps their results.\nSIGTERM ends it in order; a second one at once. Exit codes: 0 ended "
      "by a signal, 1 could not run, 2 wrong flags.",
      "thawd"};
  thaw::ServerFlags flags;
  flags.data_dir = thaw::DefaultDataDir();
  thaw::DefineFlags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    std::cerr << "thawd: " << error.what() << " (see thawd --help)\n";
    return 2;
  }
  thaw::SetLogLevel(thaw::LevelOf(flags.log_level));
  thaw::RaiseFileLimit();
  const sigset_t signals = thaw::BlockSignals();
  const absl::Status status = thaw::Serve(std::move(flags), signals);
  if (status.ok()) return 0;
  std::cerr << "thawd: " << status.message() << "\n";
  return 1;
}
