// How quick a cluster at rest is. Prints; a limit would judge the machine that the test runs on.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "tests/testing/cluster.h"
#include "tests/testing/job_watch.h"

namespace thaw {
namespace {

constexpr int kRounds = 20;

void Print(const char* what, std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  printf("FIGURE %s: median %.1f ms, slowest of %zu %.1f ms\n", what,
         seconds[seconds.size() / 2] * 1e3, seconds.size(), seconds.back() * 1e3);
}

TEST(LatencyTest, FromSubmissionToTheFirstLoss) {
  Cluster cluster;
  cluster.StartWorker("one");
  cluster.WaitForWorker("one", true);
  std::vector<double> accepted, started, first_loss, ended;
  for (int round = 0; round < kRounds; ++round) {
    const int64_t begin = RealClock().BootMicros();
    const auto passed = [&] {
      return static_cast<double>(RealClock().BootMicros() - begin) * 1e-6;
    };
    const std::string id = cluster.Submit(cluster.Spec("ok", 5));
    accepted.push_back(passed());
    JobWatch watch(cluster, id);
    ASSERT_TRUE(
        watch.WaitFor([](const auto& events) { return HasState(events, v1::Job::STARTING); }));
    started.push_back(passed());
    ASSERT_TRUE(watch.WaitFor([](const auto& events) { return HasStep(events, 1); }));
    first_loss.push_back(passed());
    ASSERT_TRUE(watch.WaitForEnd());
    ended.push_back(passed());
    ASSERT_EQ(cluster.Get(id).state(), v1::Job::SUCCEEDED);
  }
  Print("CreateJob", accepted);
  Print("submission to STARTING at a watcher", started);
  Print("submission to first loss at a watcher", first_loss);
  Print("submission to the end of five quick steps", ended);
}

}  // namespace
}  // namespace thaw
