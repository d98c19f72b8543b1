#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace thaw {

// A program that this one started. Its output is appended to a file; it is told to end (SIGTERM)
// when this program dies. One thread at a time.
class ChildProcess {
 public:
  // `arguments` begin with the program's path. NOT_FOUND if there is no such program.
  static absl::StatusOr<ChildProcess> Start(const std::vector<std::string>& arguments,
                                            const std::string& log_path);

  // How it ended ("exit code 1", "signal 9"); nothing while it runs.
  std::optional<std::string> Ended();
  // SIGTERM; nothing once it has ended.
  void Terminate() { Signal(15); }
  void Kill() { Signal(9); }

  // The last lines of its output.
  std::string LogTail() const;
  const std::string& log_path() const { return log_path_; }
  const std::string& name() const { return name_; }

 private:
  ChildProcess(pid_t pid, std::string name, std::string log_path)
      : pid_(pid), name_(std::move(name)), log_path_(std::move(log_path)) {}
  void Signal(int signal);

  pid_t pid_;
  std::string name_;
  std::string log_path_;
  std::optional<std::string> end_;
};

}  // namespace thaw
