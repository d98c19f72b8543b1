#include "worker/agent/trainer_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace thaw {
namespace {

constexpr int kTrainerSocket = 3;
constexpr int kCouldNotStart = 127;

constexpr const char* kInherited[] = {
    "PATH",         "LANG",         "LC_ALL",       "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES",
    "ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS"};

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

// Between fork and exec: only async-signal-safe calls.
[[noreturn]] void BecomeTrainer(const char* program, char* const* arguments,
                                char* const* environment, const char* work_dir, int socket, int log,
                                pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The worker may have died before the call above.
  if (getppid() != parent) _exit(kCouldNotStart);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  const int null = open("/dev/null", O_RDONLY);
  const bool ready = null >= 0 && dup2(null, STDIN_FILENO) >= 0 && dup2(log, STDOUT_FILENO) >= 0 &&
                     dup2(log, STDERR_FILENO) >= 0 &&
                     (socket == kTrainerSocket ? fcntl(socket, F_SETFD, 0) == 0
                                               : dup2(socket, kTrainerSocket) >= 0) &&
                     chdir(work_dir) == 0;
  if (ready) {
    syscall(SYS_close_range, kTrainerSocket + 1, ~0u, 0);
    execve(program, arguments, environment);
  }
  const char* reason = strerrordesc_np(errno);
  for (const char* text : {"cannot run ", program, ": ", reason != nullptr ? reason : "?", "\n"}) {
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, strlen(text));
  }
  _exit(kCouldNotStart);
}

}  // namespace

std::vector<std::string> TrainerEnvironment(const TrainerCommand& command) {
  std::vector<std::string> environment;
  for (const char* name : kInherited) {
    if (const char* value = std::getenv(name))
      environment.push_back(absl::StrCat(name, "=", value));
  }
  environment.push_back(absl::StrCat("HOME=", command.work_dir));
  environment.push_back(absl::StrCat("TMPDIR=", command.work_dir));
  // libgomp's default of spinning burns whole cores when they are shared.
  environment.push_back("GOMP_SPINCOUNT=1000");
  if (command.threads > 0) environment.push_back(absl::StrCat("OMP_NUM_THREADS=", command.threads));
  return environment;
}

absl::StatusOr<std::unique_ptr<TrainerProcess>> TrainerProcess::Start(
    const TrainerCommand& command) {
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0)
    return ErrnoStatus(errno, "making a socket pair");
  UniqueFd ours(sockets[0]);
  UniqueFd theirs(sockets[1]);
  // One that never reads must not stop whoever writes to it.
  const timeval patience = {.tv_sec = 30, .tv_usec = 0};
  if (setsockopt(ours.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) != 0) {
    return ErrnoStatus(errno, "setting a socket's time limit");
  }
  UniqueFd log(
      open(command.log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!log.valid()) return ErrnoStatus(errno, absl::StrCat("opening ", command.log_file));
  std::vector<std::string> arguments = {command.program, "--fd", absl::StrCat(kTrainerSocket)};
  std::vector<std::string> environment = TrainerEnvironment(command);
  const std::vector<char*> argument_pointers = Pointers(arguments);
  const std::vector<char*> environment_pointers = Pointers(environment);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return ErrnoStatus(errno, "starting a process for the trainer");
  if (pid == 0) {
    BecomeTrainer(command.program.c_str(), argument_pointers.data(), environment_pointers.data(),
                  command.work_dir.c_str(), theirs.get(), log.get(), parent);
  }
  // Also here, so that a kill right after this finds the group.
  setpgid(pid, pid);
  return std::unique_ptr<TrainerProcess>(new TrainerProcess(pid, std::move(ours)));
}

TrainerProcess::~TrainerProcess() {
  int wait_status = 0;
  Signal(SIGKILL);
  while (!WaitFor(1, &wait_status)) Signal(SIGKILL);
}

void TrainerProcess::Signal(int signal) {
  if (!reaped_) kill(-pid_, signal);
}

bool TrainerProcess::WaitFor(double seconds, int* wait_status) {
  if (!reaped_) {
    UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
    pollfd waiting = {pidfd.get(), POLLIN, 0};
    if (pidfd.valid()) poll(&waiting, 1, static_cast<int>(seconds * 1000));
    const pid_t done = waitpid(pid_, &wait_status_, WNOHANG);
    if (done == 0 || (done < 0 && errno == EINTR)) return false;
    reaped_ = true;
    // What it started and left behind goes too.
    kill(-pid_, SIGKILL);
  }
  *wait_status = wait_status_;
  return true;
}

}  // namespace thaw
