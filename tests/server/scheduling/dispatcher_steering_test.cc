// Cancel, pause, drain and what acts on a training, with messages lost in between; how attempts
// end.
#include "common/base/status.h"
#include "gtest/gtest.h"
#include "server/scheduling/dispatcher.h"
#include "tests/server/scheduling/cluster.h"

namespace thaw {
namespace {

using v1::AttemptEnd;
using v1::DesiredAttempt;
using v1::Job;
using CancelOfARunningJob = RunningJobTest;
using DrainOfARunningJob = RunningJobTest;
using PauseOfARunningJob = RunningJobTest;
using SteeringOfARunningJob = RunningJobTest;

TEST_F(CancelOfARunningJob, StopsTheTrainerFirst) {
  ASSERT_TRUE(cluster.Cancel(job).ok());
  EXPECT_EQ(cluster.State(job), Job::CANCELLING);
  for (int i = 0; i < 2; ++i) {  // repeated until it is done
    cluster.Sync(worker);
    EXPECT_EQ(worker.only().verdict, DesiredAttempt::STOP);
  }
  EXPECT_EQ(ReasonOf(cluster.Publish(worker.only_id())), "JOB_CANCELLED");
  SimWorker::End(worker.only(), AttemptEnd::STOPPED);
  cluster.Sync(worker);
  EXPECT_EQ(cluster.State(job), Job::CANCELLED);
  EXPECT_TRUE(worker.attempts.empty());
  EXPECT_TRUE(cluster.Cancel(job).ok());  // again: nothing
  cluster.fixture().CheckHistory(job);
}

TEST_F(CancelOfARunningJob, WithTheAttemptLostEndsAfterTheLease) {
  ASSERT_TRUE(cluster.Cancel(job).ok());
  cluster.Advance(119);
  EXPECT_EQ(cluster.State(job), Job::CANCELLING);
  cluster.Advance(2);
  EXPECT_EQ(cluster.State(job), Job::CANCELLED);
  cluster.Sync(worker);
  EXPECT_TRUE(worker.attempts.empty());
}

TEST_F(SteeringOfARunningJob, IsToldUntilItIsAppliedForGood) {
  ASSERT_TRUE(cluster.Steer(job, "a").ok());
  for (int i = 0; i < 2; ++i) {  // an answer may be lost
    const Reply reply = cluster.Send(worker.Request());
    ASSERT_EQ((**reply)->attempts(0).steerings_size(), 1);
    EXPECT_EQ((**reply)->attempts(0).steerings(0).number(), 1);
  }
  cluster.RestartServer();
  cluster.Sync(worker);
  ASSERT_EQ(worker.only().steerings.size(), 1u);
  ASSERT_TRUE(cluster.Steer(job, "b").ok());
  SimWorker::Steer(worker.only(), 5, false);
  const Reply reply = cluster.Sync(worker);
  ASSERT_EQ((**reply)->attempts(0).steerings_size(), 1) << "the first is applied";
  EXPECT_EQ((**reply)->attempts(0).steerings(0).number(), 2);
  cluster.fixture().CheckHistory(job);
}

TEST_F(SteeringOfARunningJob, GoesToTheNextAttemptWithTheStepOfWhatWasApplied) {
  ASSERT_TRUE(cluster.Steer(job, "a").ok());
  cluster.Sync(worker);
  SimWorker::Steer(worker.only(), 5, false);
  cluster.Sync(worker);
  worker.Restart();
  cluster.Sync(worker);
  ASSERT_TRUE(cluster.Steer(job, "b").ok());
  cluster.Advance(400);
  cluster.Sync(worker);
  ASSERT_EQ(worker.attempts.size(), 1u);
  const v1::Assignment& next = worker.only().assignment;
  EXPECT_EQ(next.attempt(), 2);
  ASSERT_EQ(next.steerings_size(), 2);
  EXPECT_TRUE(next.steerings(0).applied());
  EXPECT_EQ(next.steerings(0).step(), 5);
  EXPECT_FALSE(next.steerings(1).applied());
}

TEST(Cancel, OfAQueuedJobIsImmediate) {
  Cluster cluster;
  const std::string job = cluster.Submit();
  ASSERT_TRUE(cluster.Cancel(job).ok());
  EXPECT_EQ(cluster.State(job), Job::CANCELLED);
  SimWorker worker("w");
  const Reply reply = cluster.Send(worker.Request());
  EXPECT_FALSE(reply->has_value());
}

TEST(Cancel, OfAnOfferThatWasNeverSentIsImmediate) {
  Cluster cluster;
  SimWorker worker("w");
  cluster.Cancel(cluster.Send(worker.Request()));
  const std::string job = cluster.Submit();
  ASSERT_EQ(cluster.State(job), Job::STARTING);
  ASSERT_TRUE(cluster.Cancel(job).ok());
  EXPECT_EQ(cluster.State(job), Job::CANCELLED);
  cluster.fixture().CheckHistory(job);
}

TEST(Cancel, OfAnOfferWhoseAnswerWasLostEndsWithTheNextSync) {
  Cluster cluster;
  const std::string job = cluster.Submit();
  SimWorker worker("w");
  cluster.Send(worker.Request());
  ASSERT_TRUE(cluster.Cancel(job).ok());
  EXPECT_EQ(cluster.State(job), Job::CANCELLING);
  cluster.Sync(worker);
  EXPECT_EQ(cluster.State(job), Job::CANCELLED);
  EXPECT_TRUE(worker.attempts.empty());
}

TEST_F(CancelOfARunningJob, RacingWithTheResultHasOneWinner) {
  ASSERT_TRUE(cluster.Publish(worker.only_id()).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(cluster.Cancel(job)));
  EXPECT_EQ(ReasonOf(cluster.Publish(worker.only_id())), "ATTEMPT_STALE");
  EXPECT_EQ(cluster.State(job), Job::SUCCEEDED);
}

TEST_F(PauseOfARunningJob, KeepsTheCheckpointAndFreesTheWorker) {
  ASSERT_TRUE(cluster.Pause(job).ok());
  cluster.Sync(worker);
  EXPECT_EQ(worker.only().verdict, DesiredAttempt::PAUSE);
  NewCheckpoint checkpoint;
  checkpoint.artifact.set_id("checkpoint-1");
  checkpoint.step = 7;
  ASSERT_TRUE(
      cluster.store()
          .Write([&](Transaction& t) { return CommitCheckpoint(t, worker.only_id(), checkpoint); })
          .ok());
  SimWorker::End(worker.only(), AttemptEnd::PAUSED, 7);
  cluster.Sync(worker);
  EXPECT_EQ(cluster.State(job), Job::PAUSED);
  const Reply reply = cluster.Send(worker.Request());
  EXPECT_FALSE(reply->has_value());
  auto resumed = cluster.store().Write([&](Transaction& t) { return ResumeJob(t, "", job); });
  ASSERT_TRUE(resumed.ok());
  cluster.Settle();
  ASSERT_TRUE(reply->has_value());
  Cluster::Deliver(worker, reply);
  EXPECT_EQ(worker.only().assignment.checkpoint().id(), "checkpoint-1");
  EXPECT_EQ(worker.only().assignment.attempt(), 2);
  cluster.fixture().CheckHistory(job);
}

TEST(Pause, BeforeItBeganIsImmediate) {
  Cluster cluster;
  const std::string job = cluster.Submit();
  SimWorker worker("w");
  cluster.Sync(worker);
  ASSERT_EQ(worker.attempts.size(), 1u);
  ASSERT_TRUE(cluster.Pause(job).ok());
  EXPECT_EQ(cluster.State(job), Job::PAUSED);
  cluster.Sync(worker);
  EXPECT_TRUE(worker.attempts.empty());
  EXPECT_EQ(cluster.State(job), Job::PAUSED);
}

TEST_F(PauseOfARunningJob, WithTheAttemptLostPausesAllTheSame) {
  ASSERT_TRUE(cluster.Pause(job).ok());
  worker.Restart();
  cluster.Sync(worker);
  EXPECT_EQ(cluster.State(job), Job::PAUSED);
}

TEST(Drain, HandsTheAttemptsBack) {
  Cluster cluster;
  const std::string job = cluster.Submit();
  SimWorker worker("w", 2);
  cluster.RunOn(worker);
  auto status = cluster.dispatcher().DrainWorker("w");
  ASSERT_TRUE(status.ok());
  EXPECT_TRUE(status->draining());
  cluster.Submit();
  cluster.Sync(worker);
  EXPECT_TRUE(worker.told_to_drain);
  ASSERT_EQ(worker.attempts.size(), 1u) << "a draining worker gets no work";
  EXPECT_EQ(worker.only().verdict, DesiredAttempt::HAND_BACK);
  SimWorker::End(worker.only(), AttemptEnd::HANDED_BACK);
  cluster.Sync(worker);
  EXPECT_EQ(cluster.State(job), Job::QUEUED);
  cluster.RestartServer();
  cluster.Advance(1.1);
  cluster.Sync(worker);
  EXPECT_TRUE(worker.attempts.empty());
  EXPECT_TRUE(worker.told_to_drain) << "a restart of the server does not undo it";
  worker.Restart();
  cluster.Sync(worker);
  EXPECT_FALSE(worker.told_to_drain) << "another process is a fresh start";
  EXPECT_EQ(worker.attempts.size(), 2u);
}

TEST(Drain, AnswersAHeldSyncAtOnce) {
  Cluster cluster;
  SimWorker worker("w");
  const Reply reply = cluster.Send(worker.Request());
  ASSERT_TRUE(cluster.dispatcher().DrainWorker("w").ok());
  cluster.Settle();
  ASSERT_TRUE(reply->has_value());
  EXPECT_TRUE((**reply)->drain());
  EXPECT_GT((**reply)->next_sync().seconds(), 0);
}

TEST(Drain, OfAnUnknownWorkerIsNotFound) {
  Cluster cluster;
  EXPECT_TRUE(absl::IsNotFound(cluster.dispatcher().DrainWorker("nobody").status()));
}

TEST(Drain, AWorkerThatLeavesGetsNoWork) {
  Cluster cluster;
  SimWorker worker("w");
  worker.draining = true;
  cluster.Submit();
  cluster.Sync(worker);
  EXPECT_TRUE(worker.attempts.empty());
}

TEST_F(DrainOfARunningJob, AWorkerThatLeavesIsToldToHandBack) {
  worker.draining = true;
  cluster.Sync(worker);
  EXPECT_EQ(worker.only().verdict, DesiredAttempt::HAND_BACK);
  SimWorker::End(worker.only(), AttemptEnd::HANDED_BACK);
  cluster.Sync(worker);
  EXPECT_EQ(cluster.State(job), Job::QUEUED);
  EXPECT_TRUE(worker.attempts.empty());
}

struct EndCase {
  AttemptEnd::Outcome outcome;
  v1::Failure::Blame blame;
  Job::State expected;
};

TEST(AttemptEnds, LeadWhereTheStateMachineSays) {
  const EndCase cases[] = {
      {AttemptEnd::FAILED, v1::Failure::USER, Job::FAILED},
      {AttemptEnd::FAILED, v1::Failure::DATA, Job::FAILED},
      {AttemptEnd::FAILED, v1::Failure::INFRASTRUCTURE, Job::QUEUED},
      {AttemptEnd::CRASHED, v1::Failure::INTERNAL, Job::QUEUED},
      {AttemptEnd::HANDED_BACK, v1::Failure::BLAME_UNSPECIFIED, Job::QUEUED},
      {AttemptEnd::SUCCEEDED, v1::Failure::BLAME_UNSPECIFIED, Job::QUEUED},  // it lies
  };
  for (const EndCase& test : cases) {
    SCOPED_TRACE(AttemptEnd::Outcome_Name(test.outcome));
    Cluster cluster;
    const std::string job = cluster.Submit();
    SimWorker worker("w");
    cluster.RunOn(worker);
    worker.only().end.mutable_failure()->set_blame(test.blame);
    worker.only().end.mutable_failure()->set_message("it did not work");
    SimWorker::AddLog(worker.only(), "last words");
    SimWorker::End(worker.only(), test.outcome);
    const v1::SyncRequest request = worker.Request();
    cluster.Send(request);  // the answer is lost
    Cluster::Deliver(worker, cluster.Send(request));
    EXPECT_EQ(cluster.State(job), test.expected);
    EXPECT_TRUE(worker.attempts.empty());
    EXPECT_EQ(cluster.dispatcher().Stats().stale_reports, 0);
    bool heard = false;
    for (const v1::Event& event : cluster.fixture().Events(job)) {
      heard |= event.log_line().text() == "last words";
    }
    EXPECT_TRUE(heard);
    cluster.fixture().CheckHistory(job);
  }
}

TEST(AttemptEnds, OutOfMemoryHalvesTheMicroStep) {
  Cluster cluster;
  cluster.Submit();
  SimWorker worker("w");
  cluster.RunOn(worker);
  EXPECT_EQ(worker.only().assignment.micro_step_divisor(), 1);
  SimWorker::End(worker.only(), AttemptEnd::OUT_OF_MEMORY);
  cluster.Sync(worker);
  cluster.Sync(worker);
  ASSERT_EQ(worker.attempts.size(), 1u);
  EXPECT_EQ(worker.only().assignment.micro_step_divisor(), 2);
}

TEST(AttemptEnds, MaxRuntimeIsCountedOverAttempts) {
  Cluster cluster;
  NewJob job = StoreFixture::Submission();
  job.resolved_spec.mutable_max_runtime()->set_seconds(100);
  const std::string id = cluster.Submit(job);
  SimWorker worker("w");
  cluster.RunOn(worker);
  EXPECT_EQ(worker.only().assignment.runtime_left().seconds(), 100);
  cluster.Advance(40);
  SimWorker::End(worker.only(), AttemptEnd::HANDED_BACK);
  cluster.Sync(worker);
  cluster.Advance(1.1);
  cluster.RunOn(worker);
  EXPECT_EQ(worker.only().assignment.runtime_left().seconds(), 60);
  cluster.Advance(61);
  SimWorker::End(worker.only(), AttemptEnd::HANDED_BACK);
  cluster.Sync(worker);
  EXPECT_EQ(cluster.State(id), Job::FAILED);
  EXPECT_EQ(cluster.fixture().Get(id).failure().reason(), "MAX_RUNTIME");
}

}  // namespace
}  // namespace thaw
