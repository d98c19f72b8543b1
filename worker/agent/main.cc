// thaw-worker: runs the jobs that a thawd gives to this machine.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <iostream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/base/unique_fd.h"
#include "worker/agent/agent.h"
#include "worker/agent/devices.h"
#include "worker/agent/usable_memory.h"

namespace {

struct Flags {
  thaw::ServerLinkOptions server = {.address = "127.0.0.1:7433",
                                    .token_file = "",
                                    .ca_file = "",
                                    .certificate_file = "",
                                    .key_file = ""};
  std::string name;
  std::string work_dir;
  std::string trainer;
  std::string devices = "auto";
  int slots = 1;
  int threads = 0;
  double cache_gib = 20;
  double hang_seconds = 120;
  double hold_seconds = 600;
  double warm_seconds = 60;
};

std::string HostName() {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  return name[0] != '\0' ? name : "worker";
}

int Fail(const std::string& message) {
  std::cerr << "thaw-worker: " << message << "\n";
  return 1;
}

// One worker per work directory; held until the process ends.
absl::StatusOr<thaw::UniqueFd> LockDirectory(const std::string& directory) {
  THAW_RETURN_IF_ERROR(thaw::MakeDirectories(directory, 0700));
  const std::string path = directory + "/lock";
  thaw::UniqueFd lock(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock.valid()) return thaw::ErrnoStatus(errno, absl::StrCat("opening ", path));
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "--work_dir ", directory, " is in use by another thaw-worker; give each its own"));
  }
  return lock;
}

int RunWorker(const Flags& flags) {
  const auto lock = LockDirectory(flags.work_dir);
  if (!lock.ok()) return Fail(std::string(lock.status().message()));
  if (access(flags.trainer.c_str(), X_OK) != 0) {
    return Fail(absl::StrCat("--trainer ", flags.trainer,
                             " cannot be executed; build thaw-trainer or give its path"));
  }
  const auto devices = thaw::FindDevices({.which = flags.devices, .trainer = flags.trainer});
  if (!devices.ok())
    return Fail(absl::StrCat("--devices ", flags.devices, ": ", devices.status().message()));
  // Blocked before the first thread (gRPC starts some), so that only the listener below hears them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  auto link = thaw::ConnectToServer(flags.server);
  if (!link.ok()) return Fail(std::string(link.status().message()));

  thaw::AgentOptions options;
  options.name = flags.name;
  options.cache_dir = flags.work_dir + "/cache";
  options.cache_bytes = static_cast<int64_t>(flags.cache_gib * (int64_t{1} << 30));
  options.attempt.trainer = flags.trainer;
  options.attempt.attempts_dir = flags.work_dir + "/attempts";
  options.attempt.threads = flags.threads;
  options.attempt.patience.hang_seconds = flags.hang_seconds;
  options.attempt.patience.hold_seconds = flags.hold_seconds;
  options.warm.seconds = flags.warm_seconds;
  // Half of what each of the attempts at a time can count on.
  options.warm.most_bytes = thaw::UsableMemoryBytes() / 2 / flags.slots;
  options.offer.set_version(THAW_VERSION);
  options.offer.set_host(HostName());
  options.offer.set_slots(flags.slots);
  for (const thaw::v1::Device& device : *devices) *options.offer.add_devices() = device;
  // What an earlier process left of its attempts is nobody's any more: its trainers died with it.
  if (const absl::Status status = thaw::RemoveTree(options.attempt.attempts_dir); !status.ok()) {
    return Fail(std::string(status.message()));
  }

  thaw::Agent agent(options, **link, thaw::RealClock());
  std::thread listener([&] {
    int signal = 0;
    sigwait(&signals, &signal);
    THAW_LOG(kInfo, "draining", {"signal", signal});
    agent.Drain();
    sigwait(&signals, &signal);
    // The kernel ends the trainers with us.
    _exit(1);
  });
  listener.detach();
  THAW_LOG(kInfo, "worker_started", {"worker", flags.name}, {"server", flags.server.address},
           {"slots", flags.slots});
  const absl::Status status = agent.Run();
  if (!status.ok()) return Fail(std::string(status.message()));
  THAW_LOG(kInfo, "worker_drained", {"worker", flags.name});
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  flags.name = HostName();
  const char* home = getenv("HOME");
  flags.work_dir = absl::StrCat(home != nullptr ? home : ".", "/.local/share/thaw/worker");
  std::error_code unknown;
  flags.trainer =
      (std::filesystem::read_symlink("/proc/self/exe", unknown).parent_path() / "thaw-trainer")
          .string();

  CLI::App app{
      "thaw-worker runs the jobs that a Thaw server gives to this machine.\n\n"
      "It dials the server, fetches inputs, starts one thaw-trainer per attempt and uploads what "
      "it leaves.\n"
      "SIGTERM or Ctrl-C drains it: running jobs write a checkpoint and go back to the queue; a "
      "second one ends\n"
      "it at once.\n\nExample: thaw-worker --server 127.0.0.1:7433 --token_file "
      "/var/lib/thaw/worker_token"};
  app.add_option("--server", flags.server.address, "address of thawd")->capture_default_str();
  app.add_option("--token_file", flags.server.token_file,
                 "file with the worker access token (thawd: data_dir/worker_token)")
      ->required();
  app.add_option("--tls_ca", flags.server.ca_file,
                 "PEM file with the CA of the server's certificate; turns TLS on");
  app.add_option("--tls_cert", flags.server.certificate_file,
                 "PEM file with this worker's certificate, for mutual TLS");
  app.add_option("--tls_key", flags.server.key_file, "PEM file with its key");
  app.add_option("--name", flags.name, "name of this worker, unique for its server")
      ->capture_default_str();
  app.add_option("--work_dir", flags.work_dir, "scratch space and cache; one worker each")
      ->capture_default_str();
  app.add_option("--trainer", flags.trainer, "the trainer program")->capture_default_str();
  app.add_option("--devices", flags.devices,
                 "cpu, cuda, or auto: GPUs where the driver is there and the trainer computes on "
                 "them, otherwise the CPU")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  app.add_option("--slots", flags.slots, "attempts at a time")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
  app.add_option("--threads", flags.threads, "threads of a trainer; 0: physical cores")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  app.add_option("--cache_gib", flags.cache_gib, "disk space for models and datasets, GiB")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--hang_seconds", flags.hang_seconds,
                 "a trainer without a sign of life for so long (or 20 median steps) is ended")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option(
         "--hold_seconds", flags.hold_seconds,
         "how long a trainer is kept waiting when the server is out of reach beyond the lease")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option(
         "--warm_seconds", flags.warm_seconds,
         "how long a trainer keeps its model in memory after a prediction, for the next one "
         "on the same model; 0: not at all. Other work ends it at once")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.set_version_flag("--version", THAW_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  // Trainers run in directories of their own.
  flags.work_dir = std::filesystem::absolute(flags.work_dir).string();
  flags.trainer = std::filesystem::absolute(flags.trainer).string();
  return RunWorker(flags);
}
