#include "tests/client/run_thaw.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/id.h"
#include "gtest/gtest.h"

namespace thaw {

std::string ProgramDirectory() {
  const char* directory = std::getenv("THAW_BIN");
  EXPECT_NE(directory, nullptr) << "THAW_BIN names the directory of the built programs";
  return directory == nullptr ? "" : directory;
}

ProgramRun RunProgram(const std::string& program, const std::vector<std::string>& arguments,
                      const std::vector<std::string>& environment) {
  const std::string base = absl::StrCat(testing::TempDir(), "/run_", RandomId());
  const pid_t pid = fork();
  if (pid == 0) {
    for (const std::string& variable : environment) {
      const size_t equals = variable.find('=');
      setenv(variable.substr(0, equals).c_str(), variable.substr(equals + 1).c_str(), 1);
    }
    if (freopen(absl::StrCat(base, ".out").c_str(), "w", stdout) == nullptr ||
        freopen(absl::StrCat(base, ".err").c_str(), "w", stderr) == nullptr) {
      _exit(126);
    }
    std::vector<char*> pointers = {const_cast<char*>(program.c_str())};
    for (const std::string& argument : arguments)
      pointers.push_back(const_cast<char*>(argument.c_str()));
    pointers.push_back(nullptr);
    execv(program.c_str(), pointers.data());
    _exit(127);
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
