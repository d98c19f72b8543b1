#include "tests/worker/trainer/trainer_process.h"

#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "common/frames/frame.h"

extern char** environ;

namespace thaw {
namespace {

constexpr int kSocketInChild = 3;

}  // namespace

TrainerProcess::TrainerProcess(const std::vector<std::string>& arguments) {
  int ends[2];
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  socket_ = UniqueFd(ends[0]);
  const UniqueFd child(ends[1]);
  const std::string program = std::string(getenv("THAW_BIN")) + "/thaw-trainer";
  std::vector<std::string> words = {program, "--fd", std::to_string(kSocketInChild)};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, child.get(), kSocketInChild);
  EXPECT_EQ(posix_spawn(&pid_, program.c_str(), &actions, nullptr, argv.data(), environ), 0)
      << program;
  posix_spawn_file_actions_destroy(&actions);
}

TrainerProcess::~TrainerProcess() {
  if (pid_ > 0) Kill9();
}

void TrainerProcess::Send(const internal::ToTrainer& frame) {
  const absl::Status status = WriteFrame(socket_.get(), frame);
  EXPECT_TRUE(status.ok()) << status;
}

void TrainerProcess::SendRun(const internal::Run& run) {
  internal::ToTrainer frame;
  *frame.mutable_run() = run;
  Send(frame);
}

std::optional<internal::FromTrainer> TrainerProcess::Receive() {
  internal::FromTrainer frame;
  const absl::StatusOr<bool> more = ReadFrame(socket_.get(), &frame);
  if (!more.ok() || !*more) return std::nullopt;
  return frame;
}

std::optional<internal::Ended> TrainerProcess::ReceiveEnd() {
  while (const std::optional<internal::FromTrainer> frame = Receive()) {
    if (frame->has_ended()) return frame->ended();
  }
  return std::nullopt;
}

void TrainerProcess::Kill9() {
  kill(pid_, SIGKILL);
  Wait();
}

int TrainerProcess::Wait() {
  int status = 0;
  EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
  pid_ = -1;
  return status;
}

}  // namespace thaw
