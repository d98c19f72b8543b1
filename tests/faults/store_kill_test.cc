// kill -9 under submit load, again and again: what was accepted is there, once.
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/unique_fd.h"
#include "gtest/gtest.h"
#include "tests/testing/store_fixture.h"

namespace thaw {
namespace {

constexpr int kKills = 100;
constexpr int kThreads = 4;

// The child program, which lies beside this one.
std::string ChildPath() {
  char path[4096] = {};
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
  const std::string self(path, static_cast<size_t>(length));
  return self.substr(0, self.rfind('/')) + "/store_kill_child";
}

class Child {
 public:
  Child(const std::string& directory, const std::vector<int64_t>& first) {
    int ends[2];
    if (pipe(ends) != 0) return;
    std::vector<std::string> words = {ChildPath(), directory};
    for (int64_t number : first) words.push_back(absl::StrCat(number));
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(ends[1], STDOUT_FILENO);
      close(ends[0]);
      close(ends[1]);
      execv(argv[0], argv.data());
      _exit(127);
    }
    close(ends[1]);
    output_ = UniqueFd(ends[0]);
  }

  // Reads for so long after the first answer, kills, and gives back every whole line.
  std::vector<std::string> RunAndKill(std::chrono::milliseconds after_first) {
    std::string text;
    Read(&text, std::chrono::seconds(20), /*until_some=*/true);
    Read(&text, after_first, /*until_some=*/false);
    kill(pid_, SIGKILL);
    Read(&text, std::chrono::seconds(20), /*until_some=*/false);  // to the end of file
    int status = 0;
    waitpid(pid_, &status, 0);
    killed_ = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    std::vector<std::string> lines = absl::StrSplit(text, '\n');
    lines.pop_back();  // what follows the last line end
    return lines;
  }
  bool killed() const { return killed_; }

 private:
  void Read(std::string* text, std::chrono::milliseconds limit, bool until_some) {
    const auto end = std::chrono::steady_clock::now() + limit;
    while (true) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          end - std::chrono::steady_clock::now());
      if (left.count() < 0) return;
      pollfd ready = {output_.get(), POLLIN, 0};
      if (poll(&ready, 1, static_cast<int>(left.count())) <= 0) continue;
      char buffer[65536];
      const ssize_t size = read(output_.get(), buffer, sizeof(buffer));
      if (size <= 0) return;
      text->append(buffer, static_cast<size_t>(size));
      if (until_some) return;
    }
  }

  pid_t pid_ = -1;
  UniqueFd output_;
  bool killed_ = false;
};

TEST(StoreKill, AcceptedJobsAreThereOnce) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  StoreFixture fixture;
  fixture.AddArtifacts();
  fixture.Close();

  std::map<std::string, std::string> accepted;  // request id -> job
  std::vector<int64_t> next(kThreads, 0);
  for (int i = 0; i < kKills; ++i) {
    Child child(fixture.directory(), next);
    const auto lines = child.RunAndKill(std::chrono::milliseconds(random() % 60));
    ASSERT_TRUE(child.killed()) << "the store did not open after kill " << i;
    ASSERT_FALSE(lines.empty());
    for (const std::string& line : lines) {
      const std::vector<std::string> words = absl::StrSplit(line, ' ');
      int thread = 0;
      int64_t number = 0;
      ASSERT_EQ(words.size(), 3u) << line;
      ASSERT_TRUE(absl::SimpleAtoi(words[0], &thread) && absl::SimpleAtoi(words[1], &number));
      ASSERT_EQ(number, next[thread]);
      next[thread] = number + 1;
      accepted[absl::StrCat(thread, "-", number)] = words[2];
    }
  }

  fixture.Reopen();
  int64_t lost = 0;
  std::set<std::string> ids;
  for (const auto& [request_id, id] : accepted) {
    auto job = fixture.store().Read(
        [&](Reader& r) { return FindJobByRequest(r, "ann", request_id, StoreFixture::Spec()); });
    lost += job.ok() && job->id() == id ? 0 : 1;
    ids.insert(id);
  }
  const int64_t jobs = fixture.store().Stats().jobs.at(v1::Job::QUEUED);
  const int64_t doubled = static_cast<int64_t>(accepted.size() - ids.size()) +
                          std::max<int64_t>(0, jobs - static_cast<int64_t>(ids.size()) - kThreads);
  std::printf("kills %d, accepted %zu, lost %ld, doubled %ld\n", kKills, accepted.size(),
              static_cast<long>(lost), static_cast<long>(doubled));
  EXPECT_EQ(lost, 0);
  EXPECT_EQ(doubled, 0);
  // Beyond the accepted ones there is at most one a thread that was committed and not answered.
  EXPECT_GE(jobs, static_cast<int64_t>(ids.size()));
  for (const auto& [request_id, id] : accepted) {
    if (random() % 50 == 0) fixture.CheckHistory(id);
  }
}

}  // namespace
}  // namespace thaw
