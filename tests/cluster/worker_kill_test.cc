// A worker is killed again and again under its jobs: each ends once, with every step, from its
// checkpoints.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "tests/testing/cluster.h"

namespace thaw {
namespace {

constexpr int kWorkerKills = 20;
constexpr int kJobs = 4;
constexpr int64_t kSteps = 400;
constexpr int64_t kCheckpointSteps = 10;

TEST(WorkerKillTest, EveryStepIsKeptOnceAndLittleIsDoneAgain) {
  const uint32_t seed = std::random_device()();
  printf("seed %u\n", seed);
  std::mt19937 random(seed);
  Cluster cluster;
  std::vector<std::string> jobs;
  for (int i = 0; i < kJobs; ++i) {
    v1::JobSpec spec = cluster.Spec("crawl", kSteps, kCheckpointSteps);
    // A kill may come before the first new checkpoint, many times in a row.
    spec.mutable_retry_limits()->set_losses_in_a_row(100);
    jobs.push_back(cluster.Submit(spec));
  }
  int kills = 0;
  for (; kills < kWorkerKills; ++kills) {
    cluster.StartWorker("one", kJobs);
    // Not a wait for anything: the moment of the kill is what is being varied.
    std::uniform_real_distribution<double> seconds(0.1, 1);
    EXPECT_LT(cluster.worker("one").Wait(seconds(random)), 0) << "the worker ended by itself";
    cluster.worker("one").Kill();
  }
  cluster.StartWorker("one", kJobs);
  int64_t again = 0, most_again = 0, attempts = 0;
  for (const std::string& id : jobs) {
    const v1::Job job = cluster.WaitForEnd(id);
    EXPECT_EQ(job.state(), v1::Job::SUCCEEDED) << job.DebugString();
    cluster.CheckHistory(id);
    cluster.CheckLosses(id, kSteps);
    attempts += job.attempt();
    int64_t reached = 0;
    for (const v1::Event& event : cluster.Events(id)) {
      if (event.has_metric_points()) {
        reached = event.metric_points().points().rbegin()->step();
      } else if (event.has_rolled_back()) {
        again += reached - event.rolled_back().to_step();
        most_again = std::max(most_again, reached - event.rolled_back().to_step());
      }
    }
  }
  EXPECT_EQ(cluster.Artifacts(v1::Artifact::RESULT).size(), jobs.size());
  printf(
      "FIGURE worker kills: %d under %d jobs of %d steps, %d attempts; steps reported and done "
      "again %d, most at once %d (checkpoint every %d); jobs lost 0, results doubled 0\n",
      kills, kJobs, static_cast<int>(kSteps), static_cast<int>(attempts), static_cast<int>(again),
      static_cast<int>(most_again), static_cast<int>(kCheckpointSteps));
}

}  // namespace
}  // namespace thaw
