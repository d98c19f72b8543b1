// Programs that a test starts.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace thaw {

// A program in a process group of its own, killed and reaped when this goes or the test ends. Not
// thread-safe.
class ChildProcess {
 public:
  // Starts `arguments` (the first is the program's path); standard output and error are appended to
  // `log_file`. Fails the test if it cannot.
  ChildProcess(const std::vector<std::string>& arguments, const std::string& log_file);
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  bool Running();
  // Sends `signal` to the process alone, not to its children.
  void Signal(int signal);
  // SIGKILL, then waits for its end.
  void Kill();
  // Waits for its end; the exit code, 128 + the signal, or -1 if it still runs after `seconds`.
  int Wait(double seconds);

 private:
  pid_t pid_ = -1;
  bool reaped_ = false;
  int exit_code_ = 0;
};

}  // namespace thaw
