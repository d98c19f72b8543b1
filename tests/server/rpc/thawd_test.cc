// The program thawd: flags, exit codes, the one line that says what is wrong, and its end by a
// signal.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/temp_dir.h"

extern char** environ;

namespace thaw {
namespace {

using ::testing::HasSubstr;

class ThawdTest : public ::testing::Test {
 protected:
  ~ThawdTest() override {
    for (const pid_t pid : running_) kill(pid, SIGKILL), waitpid(pid, nullptr, 0);
  }

  pid_t Spawn(const std::vector<std::string>& flags, const std::string& output) {
    std::vector<std::string> arguments = {absl::StrCat(std::getenv("THAW_BIN"), "/thawd")};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, output.c_str(), O_WRONLY | O_CREAT | O_TRUNC,
                                     0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    pid_t pid = 0;
    EXPECT_EQ(posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    return pid;
  }
  int Wait(pid_t pid) {
    int status = 0;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }
  // Runs to its end; what it said.
  std::string Run(const std::vector<std::string>& flags, int expected_code) {
    const std::string output = directory_.path() + "/output";
    EXPECT_EQ(Wait(Spawn(flags, output)), expected_code);
    return *ReadFile(output);
  }
  void ExpectOneLine(const std::vector<std::string>& flags, int code, const std::string& part) {
    const std::string output = Run(flags, code);
    EXPECT_THAT(output, HasSubstr(part));
    EXPECT_EQ(output.find('\n'), output.size() - 1) << output;
  }
  std::vector<std::string> Flags(const std::string& data_dir) {
    return {"--data_dir",
            directory_.path() + "/" + data_dir,
            "--listen",
            "127.0.0.1:0",
            "--metrics_listen",
            "127.0.0.1:0",
            "--port_file",
            directory_.path() + "/ports",
            "--min_free_gigabytes",
            "0"};
  }
  // Starts a server and waits until it is ready; its addresses.
  pid_t Start(const std::string& data_dir, nlohmann::json* addresses) {
    const pid_t pid = Spawn(Flags(data_dir), directory_.path() + "/log");
    running_.push_back(pid);
    while (!Exists(directory_.path() + "/ports")) {
      if (waitpid(pid, nullptr, WNOHANG) != 0) {
        ADD_FAILURE() << *ReadFile(directory_.path() + "/log");
        running_.clear();
        return 0;
      }
      std::this_thread::yield();
    }
    *addresses = nlohmann::json::parse(*ReadFile(directory_.path() + "/ports"));
    return pid;
  }
  int Stop(pid_t pid, int signal) {
    running_.clear();
    kill(pid, signal);
    return Wait(pid);
  }

  TempDir directory_;
  std::vector<pid_t> running_;
};

TEST_F(ThawdTest, ExplainsItself) {
  const std::string help = Run({"--help"}, 0);
  for (const char* flag : {"--data_dir", "--listen", "--tls_cert", "--tokens_file", "--lease"}) {
    EXPECT_THAT(help, HasSubstr(flag));
  }
  EXPECT_THAT(Run({"--version"}, 0), HasSubstr("thawd "));
}

TEST_F(ThawdTest, RefusesWrongFlags) {
  ExpectOneLine({"--bogus"}, 2, "--bogus");
  ExpectOneLine({"--lease", "-1"}, 2, "--lease");
  ExpectOneLine({"--log_level", "loud"}, 2, "--log_level");
}

TEST_F(ThawdTest, SaysWhyItCannotRun) {
  ExpectOneLine({"--data_dir", "/proc/thaw", "--listen", "127.0.0.1:0"}, 1, "--data_dir");
  std::vector<std::string> beyond = Flags("beyond");
  beyond[3] = "0.0.0.0:0";
  ExpectOneLine(beyond, 1, "--tls_cert");
  for (const char* address : {"0.0.0.0:0", "[::]:0", "127.0.0.1:0,0.0.0.0:0", "0"}) {
    std::vector<std::string> metrics = Flags("beyond");
    metrics[5] = address;
    ExpectOneLine(metrics, 1, "--metrics_listen");
  }

  nlohmann::json addresses;
  const pid_t pid = Start("first", &addresses);
  ExpectOneLine(Flags("first"), 1, "another server");
  std::vector<std::string> taken = Flags("second");
  taken[3] = addresses["listen"];
  ExpectOneLine(taken, 1, "--listen");
  taken[3] = "127.0.0.1:0";
  taken[5] = addresses["metrics_listen"];
  ExpectOneLine(taken, 1, "--metrics_listen");
  EXPECT_EQ(Stop(pid, SIGTERM), 0);
}

TEST_F(ThawdTest, WhatItWritesIsNobodyElses) {
  // Others may enter a directory that was there before.
  ASSERT_TRUE(MakeDirectories(directory_.path() + "/open", 0755).ok());
  nlohmann::json addresses;
  const pid_t pid = Start("open", &addresses);
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(directory_.path() + "/open")) {
    struct stat info {};
    ASSERT_EQ(lstat(entry.path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 077, 0u) << entry.path();
  }
  EXPECT_EQ(Stop(pid, SIGTERM), 0);
}

TEST_F(ThawdTest, EndsInOrderAndStartsAgain) {
  for (const int signal : {SIGTERM, SIGINT}) {
    nlohmann::json addresses;
    const pid_t pid = Start("data", &addresses);
    EXPECT_EQ(*ReadFile(directory_.path() + "/data/address"),
              addresses["listen"].get<std::string>() + "\n");
    EXPECT_EQ(Stop(pid, signal), 0);
    EXPECT_THAT(*ReadFile(directory_.path() + "/log"), HasSubstr("event=stopped"));
    ASSERT_TRUE(RemoveTree(directory_.path() + "/ports").ok());
  }
}

}  // namespace
}  // namespace thaw
