// Trainers that crash, hang and lie: what it costs, and that it costs only their own job.
#include <gtest/gtest.h>

#include <string>

#include "tests/testing/cluster.h"

namespace thaw {
namespace {

bool HasWarning(const std::vector<v1::Event>& events, const std::string& reason) {
  for (const v1::Event& event : events) {
    if (event.warning().reason() == reason) return true;
  }
  return false;
}

// The worker is as good as before: a job behind it runs.
void ExpectWorkerWell(Cluster& cluster) {
  EXPECT_EQ(cluster.WaitForEnd(cluster.Submit(cluster.Spec("ok"))).state(), v1::Job::SUCCEEDED);
}

TEST(FailureTest, ACrashCostsTheStepsSinceTheCheckpoint) {
  for (const char* fake : {"crash-once-at-8", "exit-once-at-8"}) {
    Cluster cluster;
    cluster.StartWorker("one");
    const std::string id = cluster.Submit(cluster.Spec(std::string("crawl.") + fake, 20, 5));
    const v1::Job job = cluster.WaitForEnd(id);
    EXPECT_EQ(job.state(), v1::Job::SUCCEEDED) << job.DebugString();
    EXPECT_EQ(job.attempt(), 2);
    EXPECT_EQ(job.result_metrics().at("first_step"), 5);
    int64_t rolled_back_to = -1;
    for (const v1::Event& event : cluster.Events(id)) {
      if (event.has_rolled_back()) rolled_back_to = event.rolled_back().to_step();
    }
    EXPECT_EQ(rolled_back_to, 5);
    cluster.CheckHistory(id);
    cluster.CheckLosses(id, 20);
  }
}

TEST(FailureTest, TwoCrashesAtOneStepEndTheJob) {
  Cluster cluster;
  cluster.StartWorker("one");
  const std::string id = cluster.Submit(cluster.Spec("crash-at-7", 20, 5));
  const v1::Job job = cluster.WaitForEnd(id);
  EXPECT_EQ(job.state(), v1::Job::FAILED) << job.DebugString();
  EXPECT_EQ(job.attempt(), 2);
  EXPECT_EQ(job.failure().blame(), v1::Failure::INTERNAL);
  EXPECT_EQ(job.failure().reason(), "TRAINER_CRASHED");
  EXPECT_EQ(job.failure().step(), 7);
  cluster.CheckHistory(id);
  ExpectWorkerWell(cluster);
}

TEST(FailureTest, CrashesAtDifferentStepsAreCounted) {
  Cluster cluster;
  cluster.StartWorker("one");
  v1::JobSpec spec = cluster.Spec("crawl.crash-each", 200, 1);
  spec.mutable_retry_limits()->set_crashes(2);
  const std::string id = cluster.Submit(spec);
  const v1::Job job = cluster.WaitForEnd(id);
  EXPECT_EQ(job.state(), v1::Job::FAILED) << job.DebugString();
  EXPECT_EQ(job.attempt(), 3);
  EXPECT_EQ(job.failure().reason(), "TRAINER_CRASHED");
  cluster.CheckHistory(id);
}

TEST(FailureTest, AHangIsACrash) {
  Cluster cluster({.hang_seconds = 2});
  cluster.StartWorker("one");
  const std::string id = cluster.Submit(cluster.Spec("hang-once-at-8", 20, 5));
  const v1::Job job = cluster.WaitForEnd(id);
  EXPECT_EQ(job.state(), v1::Job::SUCCEEDED) << job.DebugString();
  EXPECT_EQ(job.attempt(), 2);
  cluster.CheckHistory(id);
  cluster.CheckLosses(id, 20);
}

TEST(FailureTest, OutOfMemoryHalvesTheMicroSteps) {
  Cluster cluster;
  cluster.StartWorker("one");
  const std::string id = cluster.Submit(cluster.Spec("oom-at-7", 20, 5));
  const v1::Job job = cluster.WaitForEnd(id);
  EXPECT_EQ(job.state(), v1::Job::SUCCEEDED) << job.DebugString();
  EXPECT_EQ(job.attempt(), 2);
  EXPECT_EQ(job.result_metrics().at("micro_step_divisor"), 2);
  EXPECT_TRUE(HasWarning(cluster.Events(id), "MICRO_STEP_HALVED"));
  cluster.CheckHistory(id);
  const std::string hopeless = cluster.Submit(cluster.Spec("oom-always-at-7", 20, 5));
  const v1::Job failed = cluster.WaitForEnd(hopeless);
  EXPECT_EQ(failed.state(), v1::Job::FAILED) << failed.DebugString();
  EXPECT_EQ(failed.failure().blame(), v1::Failure::RESOURCE);
  EXPECT_EQ(failed.failure().reason(), "OUT_OF_MEMORY");
  EXPECT_EQ(failed.attempt(), 2);
}

TEST(FailureTest, AUsersErrorIsNotTriedAgain) {
  Cluster cluster;
  cluster.StartWorker("one");
  const v1::Job job = cluster.WaitForEnd(cluster.Submit(cluster.Spec("fail-user")));
  EXPECT_EQ(job.state(), v1::Job::FAILED) << job.DebugString();
  EXPECT_EQ(job.failure().blame(), v1::Failure::USER);
  EXPECT_EQ(job.failure().reason(), "FAKE_REFUSED");
  EXPECT_EQ(job.attempt(), 1);
}

TEST(FailureTest, LiesEndTheAttemptAndNothingElse) {
  Cluster cluster;
  cluster.StartWorker("one");
  for (const char* lie :
       {"lie-frame", "lie-huge", "lie-nan", "lie-path", "lie-event", "lie-steps"}) {
    v1::JobSpec spec = cluster.Spec(lie, 20, 1000);
    spec.mutable_retry_limits()->set_crashes(0);
    const std::string id = cluster.Submit(spec);
    const v1::Job job = cluster.WaitForEnd(id);
    EXPECT_EQ(job.state(), v1::Job::FAILED) << lie << ": " << job.DebugString();
    EXPECT_EQ(job.failure().blame(), v1::Failure::INTERNAL) << lie;
    EXPECT_EQ(job.failure().reason(), "TRAINER_STOPPED") << lie << ": " << job.DebugString();
    EXPECT_EQ(job.attempt(), 1) << lie;
    cluster.CheckHistory(id);
  }
  EXPECT_TRUE(cluster.Artifacts(v1::Artifact::RESULT).empty());
  ExpectWorkerWell(cluster);
}

TEST(FailureTest, AResultThatIsNotThereIsNoSuccess) {
  Cluster cluster;
  cluster.StartWorker("one");
  v1::JobSpec spec = cluster.Spec("lie-result");
  spec.mutable_retry_limits()->set_losses_in_a_row(1);
  spec.mutable_retry_limits()->set_crashes(0);
  const std::string id = cluster.Submit(spec);
  const v1::Job job = cluster.WaitForEnd(id);
  EXPECT_EQ(job.state(), v1::Job::FAILED) << job.DebugString();
  EXPECT_TRUE(cluster.Artifacts(v1::Artifact::RESULT).empty());
  cluster.CheckHistory(id);
  ExpectWorkerWell(cluster);
}

TEST(FailureTest, AFloodDoesNotDrownTheOtherSlot) {
  Cluster cluster;
  cluster.StartWorker("one", 2);
  const std::string flood = cluster.Submit(cluster.Spec("flood.slow", 5, 1000));
  cluster.WaitForState(flood, v1::Job::RUNNING);
  ExpectWorkerWell(cluster);
  const v1::Job job = cluster.WaitForEnd(flood);
  EXPECT_EQ(job.state(), v1::Job::SUCCEEDED) << job.DebugString();
  cluster.CheckHistory(flood);
}

}  // namespace
}  // namespace thaw
