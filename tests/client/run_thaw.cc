#include "tests/client/run_thaw.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/id.h"
#include "common/base/unique_fd.h"
#include "gtest/gtest.h"

namespace thaw {
namespace {

std::vector<char*> Pointers(std::vector<std::string>* words) {
  std::vector<char*> pointers;
  for (std::string& word : *words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

// Below the time that ctest gives a test, so that what hangs is seen.
constexpr int kLongestRunMillis = 90'000;

std::string WhereThreadsWait(pid_t pid) {
  std::string where;
  std::error_code gone;
  for (const auto& thread :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/task"), gone)) {
    for (const char* name : {"comm", "wchan", "syscall"}) {
      std::string line;
      std::getline(std::ifstream(thread.path() / name), line);
      absl::StrAppend(&where, " ", line);
    }
    absl::StrAppend(&where, ";");
  }
  return where;
}

}  // namespace

std::string ProgramDirectory() {
  const char* directory = std::getenv("THAW_BIN");
  EXPECT_NE(directory, nullptr) << "THAW_BIN names the directory of the built programs";
  return directory == nullptr ? "" : directory;
}

ProgramRun RunProgram(const std::string& program, const std::vector<std::string>& arguments,
                      const std::vector<std::string>& environment) {
  const std::string base = absl::StrCat(testing::TempDir(), "/run_", RandomId());
  std::vector<std::string> words = {program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<std::string> variables = environment;
  for (char** inherited = environ; *inherited != nullptr; ++inherited) {
    const absl::string_view variable = *inherited;
    const absl::string_view name = variable.substr(0, variable.find('=') + 1);
    const bool replaced =
        std::any_of(environment.begin(), environment.end(),
                    [&](absl::string_view ours) { return absl::StartsWith(ours, name); });
    if (!replaced) variables.push_back(*inherited);
  }
  // Not fork: this process has threads of gRPC, and a child of it must not ask for memory.
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  constexpr int kFlags = O_WRONLY | O_CREAT | O_TRUNC;
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, absl::StrCat(base, ".out").c_str(),
                                   kFlags, 0600);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, absl::StrCat(base, ".err").c_str(),
                                   kFlags, 0600);
  pid_t pid = -1;
  EXPECT_EQ(posix_spawn(&pid, program.c_str(), &actions, nullptr, Pointers(&words).data(),
                        Pointers(&variables).data()),
            0)
      << program;
  posix_spawn_file_actions_destroy(&actions);
  const UniqueFd handle(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  pollfd ended = {handle.get(), POLLIN, 0};
  if (poll(&ended, 1, kLongestRunMillis) == 0) {
    ADD_FAILURE() << program << " does not end; its threads wait in:" << WhereThreadsWait(pid);
    kill(pid, SIGKILL);
  }
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  ProgramRun run;
  run.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  run.out = ReadFile(base + ".out").value_or("");
  run.err = ReadFile(base + ".err").value_or("");
  return run;
}

}  // namespace thaw
