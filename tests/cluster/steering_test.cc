// Acting on trainings while they run, with a real server and worker that die in between.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/testing/cluster.h"

namespace thaw {
namespace {

v1::Steering Action(bool stop) {
  v1::Steering action;
  if (stop) {
    action.set_stop(true);
  } else {
    action.set_checkpoint(true);
  }
  return action;
}

std::vector<v1::SteeringRecord> Applied(Cluster& cluster, const std::string& job) {
  std::vector<v1::SteeringRecord> applied;
  for (const v1::Event& event : cluster.Events(job)) {
    if (event.has_steering_applied()) applied.push_back(event.steering_applied());
  }
  return applied;
}

void WaitForApplied(Cluster& cluster, const std::string& job, int count) {
  cluster.WaitUntil(
      job,
      [&](const v1::Job& seen) {
        return seen.steerings_size() >= count && seen.steerings(count - 1).applied();
      },
      "what was asked for is applied");
}

TEST(SteeringTest, WhatIsAskedForIsDoneInOrderWhileTheJobRuns) {
  Cluster cluster;
  cluster.StartWorker("one");
  const std::string job = cluster.Submit(cluster.Spec("slow", 2000, 1000));
  cluster.WaitForStep(job, 2);
  for (int i = 0; i < 2; ++i) {  // a retry asks for nothing more
    ASSERT_TRUE(cluster.Steer(job, Action(false), "one").ok());
  }
  WaitForApplied(cluster, job, 1);
  ASSERT_TRUE(cluster.Steer(job, Action(true), "two").ok());
  const v1::Job ended = cluster.WaitForEnd(job);
  EXPECT_EQ(ended.state(), v1::Job::SUCCEEDED);
  ASSERT_EQ(ended.steerings_size(), 2);
  const auto applied = Applied(cluster, job);
  ASSERT_EQ(applied.size(), 2u);
  EXPECT_LE(applied[0].step(), applied[1].step());
  EXPECT_GT(applied[0].step(), 0);
  cluster.CheckHistory(job);
  cluster.CheckLosses(job, applied[1].step());
  EXPECT_FALSE(cluster.Steer(job, Action(false), "three").ok()) << "it has ended";
}

TEST(SteeringTest, AServerThatDiesInBetweenForgetsNothing) {
  Cluster cluster;
  cluster.StartWorker("one");
  const std::string job = cluster.Submit(cluster.Spec("slow", 2000, 1000));
  cluster.WaitForStep(job, 2);
  ASSERT_TRUE(cluster.Steer(job, Action(false), "one").ok());
  cluster.KillServer();
  cluster.StartServer();
  WaitForApplied(cluster, job, 1);
  ASSERT_TRUE(cluster.Steer(job, Action(true), "two").ok());
  cluster.KillServer();
  cluster.StartServer();
  EXPECT_EQ(cluster.WaitForEnd(job).state(), v1::Job::SUCCEEDED);
  EXPECT_EQ(cluster.Get(job).attempt(), 1);
  EXPECT_EQ(Applied(cluster, job).size(), 2u);
  cluster.CheckHistory(job);
}

TEST(SteeringTest, TheNextAttemptDoesItAgainAfterTheSameStep) {
  Cluster cluster;
  cluster.StartWorker("one");
  const std::string job = cluster.Submit(cluster.Spec("slow", 60, 1000));
  cluster.WaitForStep(job, 2);
  // Its checkpoint is not on disk before the event is: the next attempt may begin from either.
  ASSERT_TRUE(cluster.Steer(job, Action(false), "one").ok());
  WaitForApplied(cluster, job, 1);
  const int64_t step = cluster.Get(job).steerings(0).step();
  cluster.worker("one").Kill();
  ASSERT_TRUE(cluster.Steer(job, Action(false), "two").ok()) << "while nobody runs it";
  cluster.StartWorker("two");
  const v1::Job ended = cluster.WaitForEnd(job);
  EXPECT_EQ(ended.state(), v1::Job::SUCCEEDED) << ended.DebugString();
  EXPECT_EQ(ended.attempt(), 2);
  const auto applied = Applied(cluster, job);
  ASSERT_EQ(applied.size(), 2u);
  EXPECT_EQ(applied[0].step(), step);
  EXPECT_GE(applied[1].step(), step) << "after the one before it";
  cluster.CheckHistory(job);
  cluster.CheckLosses(job, 60);
}

TEST(SteeringTest, APausedJobKeepsWhatIsAskedFor) {
  Cluster cluster;
  cluster.StartWorker("one");
  const std::string job = cluster.Submit(cluster.Spec("slow", 2000, 1000));
  cluster.WaitForStep(job, 2);
  ASSERT_TRUE(cluster.Pause(job).ok());
  cluster.WaitForState(job, v1::Job::PAUSED);
  ASSERT_TRUE(cluster.Steer(job, Action(true), "one").ok());
  EXPECT_EQ(cluster.Get(job).state(), v1::Job::PAUSED);
  ASSERT_TRUE(cluster.Resume(job).ok());
  EXPECT_EQ(cluster.WaitForEnd(job).state(), v1::Job::SUCCEEDED);
  EXPECT_EQ(Applied(cluster, job).size(), 1u);
}

}  // namespace
}  // namespace thaw
