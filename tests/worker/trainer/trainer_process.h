// A real thaw-trainer on the other end of a socket, as thaw-worker sees it.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "common/base/unique_fd.h"
#include "thaw/internal/trainer.pb.h"

namespace thaw {

class TrainerProcess {
 public:
  // Starts $THAW_BIN/thaw-trainer with these further arguments.
  explicit TrainerProcess(const std::vector<std::string>& arguments = {});
  // Kills it if it still runs.
  ~TrainerProcess();

  void Send(const internal::ToTrainer& frame);
  void SendRun(const internal::Run& run);
  // The next frame; nothing at the end of the stream.
  std::optional<internal::FromTrainer> Receive();
  // Reads on to the Ended frame; nothing if the stream ends without one.
  std::optional<internal::Ended> ReceiveEnd();

  void Kill9();
  void CloseSocket() { socket_.Reset(); }
  // As waitpid(2) gives it.
  int Wait();

 private:
  pid_t pid_ = -1;
  UniqueFd socket_;
};

}  // namespace thaw
