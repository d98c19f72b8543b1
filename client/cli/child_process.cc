#include "client/cli/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "common/base/unique_fd.h"

namespace thaw {
namespace {

constexpr size_t kTailBytes = 2000;

// Between fork and exec: only calls that are safe there.
[[noreturn]] void Become(const std::vector<char*>& arguments, int log, pid_t parent) {
  setpgid(0, 0);  // Ctrl-C reaches the parent alone, which stops its children in order
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(127);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int null = open("/dev/null", O_RDONLY);
  dup2(null, STDIN_FILENO);
  dup2(log, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  execv(arguments[0], arguments.data());
  _exit(127);
}

}  // namespace

absl::StatusOr<ChildProcess> ChildProcess::Start(const std::vector<std::string>& arguments,
                                                 const std::string& log_path) {
  if (access(arguments[0].c_str(), X_OK) != 0) return ErrnoStatus(errno, arguments[0]);
  const UniqueFd log(open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!log.valid()) return ErrnoStatus(errno, log_path);
  std::vector<char*> pointers;
  for (const std::string& argument : arguments)
    pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return ErrnoStatus(errno, "fork");
  if (pid == 0) Become(pointers, log.get(), parent);
  return ChildProcess(pid, arguments[0].substr(arguments[0].rfind('/') + 1), log_path);
}

std::optional<std::string> ChildProcess::Ended() {
  if (end_.has_value()) return end_;
  int status = 0;
  const pid_t waited = waitpid(pid_, &status, WNOHANG);
  if (waited != pid_) return std::nullopt;
  end_ = WIFSIGNALED(status) ? absl::StrCat("signal ", WTERMSIG(status))
                             : absl::StrCat("exit code ", WEXITSTATUS(status));
  return end_;
}

void ChildProcess::Signal(int signal) {
  if (!Ended().has_value()) kill(pid_, signal);
}

std::string ChildProcess::LogTail() const {
  const absl::StatusOr<std::string> text = ReadFile(log_path_);
  if (!text.ok() || text->empty()) return "";
  std::string tail = text->substr(text->size() - std::min(text->size(), kTailBytes));
  if (tail.size() < text->size()) tail.erase(0, tail.find('\n') + 1);
  if (!tail.empty() && tail.back() == '\n') tail.pop_back();
  return tail;
}

}  // namespace thaw
