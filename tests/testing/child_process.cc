#include "tests/testing/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "common/base/log.h"
#include "common/base/unique_fd.h"

namespace thaw {

ChildProcess::ChildProcess(const std::vector<std::string>& arguments, const std::string& log_file) {
  // Between fork and exec only system calls may be made: other threads may hold locks.
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const UniqueFd log(open(log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  THAW_CHECK(log.valid());
  pid_ = fork();
  THAW_CHECK(pid_ >= 0);
  if (pid_ > 0) return;
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  dup2(log.get(), STDOUT_FILENO);
  dup2(log.get(), STDERR_FILENO);
  execv(argv[0], argv.data());
  _exit(127);
}

ChildProcess::~ChildProcess() { Kill(); }

bool ChildProcess::Running() { return Wait(0) < 0; }

void ChildProcess::Signal(int signal) {
  if (!reaped_) kill(pid_, signal);
}

void ChildProcess::Kill() {
  Signal(SIGKILL);
  // A process that the kernel does not let go of would be a finding.
  THAW_CHECK(Wait(30) >= 0);
}

int ChildProcess::Wait(double seconds) {
  if (reaped_) return exit_code_;
  const UniqueFd handle(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
  pollfd waiting = {handle.get(), POLLIN, 0};
  while (poll(&waiting, 1, static_cast<int>(seconds * 1000)) < 0 && errno == EINTR) {
  }
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return -1;
  reaped_ = true;
  exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return exit_code_;
}

}  // namespace thaw
