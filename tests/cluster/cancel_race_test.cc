// Cancelling against starting, running, publishing and ending: whoever commits first wins, and
// stays.
#include <gtest/gtest.h>

#include <cstdio>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/testing/cluster.h"

namespace thaw {
namespace {

constexpr int kRaces = 60;

TEST(CancelRaceTest, WhoeverCommitsFirstWins) {
  const uint32_t seed = std::random_device()();
  printf("seed %u\n", seed);
  std::mt19937 random(seed);
  // A job of five quick steps ends within about that time.
  std::uniform_real_distribution<double> seconds(0, 0.12);
  Cluster cluster;
  cluster.StartWorker("one", 2);
  cluster.WaitForWorker("one", true);
  std::vector<std::pair<std::string, bool>> jobs;  // and whether it was cancelled
  for (int race = 0; race < kRaces; ++race) {
    const std::string id = cluster.Submit(cluster.Spec("ok", 5));
    // Not a wait for anything: the moment is what is being varied.
    EXPECT_LT(cluster.server().Wait(seconds(random)), 0);
    const absl::Status status = cluster.Cancel(id);
    EXPECT_TRUE(status.ok() || absl::IsFailedPrecondition(status)) << status;
    jobs.emplace_back(id, status.ok());
  }
  int cancelled = 0;
  std::set<std::string> results;
  for (const auto& [id, was_cancelled] : jobs) {
    const v1::Job job = cluster.WaitForEnd(id);
    EXPECT_EQ(job.state(), was_cancelled ? v1::Job::CANCELLED : v1::Job::SUCCEEDED)
        << job.DebugString();
    EXPECT_EQ(job.result().empty(), was_cancelled) << job.DebugString();
    if (!job.result().empty()) results.insert(job.result());
    cancelled += was_cancelled ? 1 : 0;
    cluster.CheckHistory(id);
  }
  for (const v1::Artifact& result : cluster.Artifacts(v1::Artifact::RESULT)) {
    EXPECT_EQ(results.count(result.id()), 1u) << "a cancelled job left " << result.id();
  }
  printf("FIGURE cancel races: %d, of which %d cancelled and %d too late; results of cancelled 0\n",
         kRaces, cancelled, kRaces - cancelled);
}

}  // namespace
}  // namespace thaw
