#include "worker/agent/trainer_devices.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/base/unique_fd.h"
#include "worker/agent/trainer_process.h"

namespace thaw {
namespace {

constexpr size_t kLongestAnswer = 4096;

// Up to its end or the deadline (BootMicros); false if that came first.
bool ReadAnswer(int fd, int64_t deadline, std::string* answer) {
  char buffer[512];
  while (answer->size() < kLongestAnswer) {
    const int64_t left = deadline - RealClock().BootMicros();
    pollfd waiting = {fd, POLLIN, 0};
    if (left <= 0 || poll(&waiting, 1, static_cast<int>(left / 1000) + 1) == 0) return false;
    const ssize_t count = read(fd, buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    answer->append(buffer, static_cast<size_t>(count));
  }
  return true;
}

// Waits for the end of `pid`, which is killed at the deadline; its wait status. One that has closed
// its output may hang all the same.
int ReapBy(int64_t deadline, pid_t pid) {
  constexpr int kLookMillis = 20;  // where the kernel has no descriptors of processes
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  int wait_status = 0;
  while (true) {
    const pid_t ended = waitpid(pid, &wait_status, WNOHANG);
    if (ended != 0 && !(ended < 0 && errno == EINTR)) return wait_status;
    const int64_t left = deadline - RealClock().BootMicros();
    if (left <= 0) kill(pid, SIGKILL);
    const int most = left <= 0 ? kLookMillis : static_cast<int>(left / 1000) + 1;
    pollfd waiting = {pidfd.get(), POLLIN, 0};
    poll(&waiting, 1, pidfd.valid() ? most : std::min(most, kLookMillis));
  }
}

}  // namespace

absl::StatusOr<std::vector<std::string>> AskTrainerDevices(const std::string& program,
                                                           double seconds) {
  int pipe_ends[2];
  if (pipe2(pipe_ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "making a pipe");
  const UniqueFd from_trainer(pipe_ends[0]);
  UniqueFd to_us(pipe_ends[1]);
  TrainerCommand command;
  command.program = program;
  command.work_dir = "/";
  std::vector<std::string> environment = TrainerEnvironment(command);
  std::vector<char*> environment_pointers;
  for (std::string& variable : environment) environment_pointers.push_back(variable.data());
  environment_pointers.push_back(nullptr);
  std::string name = program, argument = "--devices";
  char* const arguments[] = {name.data(), argument.data(), nullptr};

  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, to_us.get(), STDOUT_FILENO);
  pid_t pid = 0;
  const int error =
      posix_spawn(&pid, program.c_str(), &files, nullptr, arguments, environment_pointers.data());
  posix_spawn_file_actions_destroy(&files);
  if (error != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(program, " cannot be run: ", ErrnoStatus(error, "").message()));
  }
  to_us.Reset();
  std::string answer;
  const int64_t deadline = RealClock().BootMicros() + static_cast<int64_t>(seconds * 1e6);
  const bool in_time = ReadAnswer(from_trainer.get(), deadline, &answer);
  if (!in_time || answer.size() >= kLongestAnswer) kill(pid, SIGKILL);
  const int wait_status = ReapBy(deadline, pid);
  std::vector<std::string> kinds =
      absl::StrSplit(answer, absl::ByAnyChar(" \n"), absl::SkipEmpty());
  if (in_time && WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0 && !kinds.empty()) {
    return kinds;
  }
  return absl::FailedPreconditionError(
      absl::StrCat(program,
                   " --devices does not say what it can compute on: it is no thaw-trainer, "
                   "or one of another version"));
}

}  // namespace thaw
