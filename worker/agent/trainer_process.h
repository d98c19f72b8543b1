// One trainer as a child process.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/unique_fd.h"

namespace thaw {

struct TrainerCommand {
  std::string program;   // path of the executable
  std::string work_dir;  // its working directory and only scratch space
  std::string log_file;  // gets its standard output and error
  int threads = 0;       // for OMP_NUM_THREADS; 0: not set
};

// What a trainer is given of our environment, "NAME=value" each. Above all not: access tokens,
// LD_PRELOAD.
std::vector<std::string> TrainerEnvironment(const TrainerCommand& command);

// Owns the process: when it goes, the whole process group is killed and reaped. One thread at a
// time may end, kill or destroy it; `socket` may be used by any. The kernel kills the process when
// the thread that called Start is gone.
class TrainerProcess {
 public:
  // Starts it in a process group of its own with a clean environment, no open file of ours but a
  // socket as descriptor 3, and death of the worker as its own. A program that cannot be started
  // shows as exit code 127.
  static absl::StatusOr<std::unique_ptr<TrainerProcess>> Start(const TrainerCommand& command);
  ~TrainerProcess();

  int socket() const { return socket_.get(); }
  pid_t pid() const { return pid_; }
  // Sends `signal` to the process group. Nothing if it is reaped.
  void Signal(int signal);
  // Waits up to `seconds` for it to end; true with its wait status.
  bool WaitFor(double seconds, int* wait_status);

 private:
  TrainerProcess(pid_t pid, UniqueFd socket) : pid_(pid), socket_(std::move(socket)) {}

  const pid_t pid_;
  UniqueFd socket_;
  bool reaped_ = false;
  int wait_status_ = 0;
};

}  // namespace thaw
