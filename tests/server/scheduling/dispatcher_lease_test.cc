// Leases, lost workers, restarts of either side.
#include "common/base/status.h"
#include "gtest/gtest.h"
#include "server/scheduling/dispatcher.h"
#include "tests/server/scheduling/cluster.h"

namespace thaw {
namespace {

using v1::DesiredAttempt;
using v1::Job;
using IncarnationOfARunningJob = RunningJobTest;
using LeaseOfARunningJob = RunningJobTest;

TEST_F(LeaseOfARunningJob, AJobIsReplacedOnlyAfterLeaseAndGrace) {
  SimWorker spare("spare");
  cluster.Advance(119);
  cluster.Sync(spare);
  EXPECT_EQ(cluster.State(job), Job::RUNNING);
  EXPECT_TRUE(spare.attempts.empty());
  cluster.Advance(1.5);
  EXPECT_EQ(cluster.State(job), Job::QUEUED);
  EXPECT_EQ(cluster.dispatcher().Stats().leases_lost, 1);
  EXPECT_EQ(cluster.store().Stats().attempts_lost, 1);
  cluster.Advance(1.1);
  cluster.Sync(spare);
  EXPECT_EQ(spare.attempts.size(), 1u);
  cluster.fixture().CheckHistory(job);
}

TEST_F(LeaseOfARunningJob, EverySyncRenewsIt) {
  for (int i = 0; i < 10; ++i) {
    cluster.Advance(100);
    cluster.Sync(worker);
  }
  EXPECT_EQ(cluster.State(job), Job::RUNNING);
  EXPECT_EQ(cluster.fixture().Get(job).attempt(), 1);
}

TEST_F(LeaseOfARunningJob, AWallClockThatJumpsChangesNothing) {
  cluster.fixture().clock().JumpWallSeconds(86'400);
  cluster.Settle();
  EXPECT_EQ(cluster.State(job), Job::RUNNING);
  cluster.fixture().clock().JumpWallSeconds(-2 * 86'400);
  cluster.Advance(121);
  EXPECT_EQ(cluster.State(job), Job::QUEUED);
  // The back-off is over after its second although the wall clock stands a day before it.
  cluster.Advance(1.1);
  SimWorker spare("spare");
  cluster.Sync(spare);
  EXPECT_EQ(spare.attempts.size(), 1u);
}

TEST_F(LeaseOfARunningJob, ALostAttemptThatNothingReplacedGoesOn) {
  const std::string attempt = worker.only_id();
  cluster.Advance(300);
  EXPECT_EQ(cluster.State(job), Job::QUEUED);
  SimWorker::AddLog(worker.only(), "still here");
  const Reply reply = cluster.Sync(worker);
  ASSERT_TRUE((*reply)->ok());
  EXPECT_EQ((**reply)->attempts(0).verdict(), DesiredAttempt::RUN);
  EXPECT_EQ((**reply)->attempts(0).acknowledged_sequence(), 1);
  EXPECT_EQ(worker.only_id(), attempt);
  EXPECT_EQ(cluster.State(job), Job::RUNNING);
  EXPECT_EQ(cluster.fixture().Get(job).attempt(), 1);
  EXPECT_TRUE(cluster.Publish(attempt).ok());
  cluster.fixture().CheckHistory(job);
}

TEST_F(LeaseOfARunningJob, AReplacedAttemptIsFencedOff) {
  const std::string stale = worker.only_id();
  cluster.Advance(121);
  cluster.Advance(1.1);
  SimWorker spare("spare");
  cluster.RunOn(spare);
  EXPECT_EQ(cluster.State(job), Job::RUNNING);
  const absl::Status refused = cluster.Publish(stale);
  EXPECT_EQ(ReasonOf(refused), "ATTEMPT_STALE");
  cluster.Sync(worker);
  EXPECT_TRUE(worker.attempts.empty());
  EXPECT_EQ(cluster.dispatcher().Stats().stale_reports, 1);
  EXPECT_EQ(cluster.store().Stats().fenced_writes, 2);
  EXPECT_TRUE(cluster.Publish(spare.only_id()).ok());
  EXPECT_EQ(cluster.fixture().Get(job).attempt(), 2);
  cluster.fixture().CheckHistory(job);
}

TEST_F(LeaseOfARunningJob, ARestartedServerWaitsAFullLease) {
  cluster.Advance(100);
  cluster.RestartServer();
  cluster.Advance(119);
  EXPECT_EQ(cluster.State(job), Job::RUNNING);
  cluster.Advance(2);
  EXPECT_EQ(cluster.State(job), Job::QUEUED);
}

TEST_F(LeaseOfARunningJob, AttemptsCarryOnThroughARestartOfTheServer) {
  SimWorker::AddLog(worker.only(), "1");
  cluster.Send(worker.Request());  // committed, but the answer is lost
  cluster.RestartServer();
  SimWorker::AddLog(worker.only(), "2");
  cluster.Sync(worker);
  SimWorker::AddLog(worker.only(), "3");
  cluster.Sync(worker);
  EXPECT_TRUE(worker.only().unacknowledged.empty());
  std::string lines;
  for (const v1::Event& event : cluster.fixture().Events(job)) {
    if (event.has_log_line()) lines += event.log_line().text();
  }
  EXPECT_EQ(lines, "123");
  EXPECT_EQ(cluster.State(job), Job::RUNNING);
  EXPECT_EQ(cluster.fixture().Get(job).attempt(), 1);
}

TEST(Lease, AnOfferSurvivesARestartOfTheServer) {
  Cluster cluster;
  const std::string job = cluster.Submit();
  SimWorker worker("w");
  const Reply lost = cluster.Send(worker.Request());
  const std::string attempt = (**lost)->attempts(0).attempt_id();
  cluster.RestartServer();
  cluster.Sync(worker);
  ASSERT_EQ(worker.attempts.size(), 1u);
  EXPECT_EQ(worker.only_id(), attempt);
  EXPECT_EQ(worker.only().assignment.model().id(), "model-1");
  EXPECT_EQ(cluster.fixture().Get(job).attempt(), 1);
}

TEST_F(IncarnationOfARunningJob, ARestartedWorkerHasLostItsAttempts) {
  worker.Restart();
  cluster.Sync(worker);
  EXPECT_EQ(cluster.State(job), Job::QUEUED);
  cluster.Advance(1.1);
  cluster.Sync(worker);
  EXPECT_EQ(worker.attempts.size(), 1u);
  EXPECT_EQ(cluster.fixture().Get(job).attempt(), 2);
}

TEST(Incarnation, AnOfferToTheEarlierOneIsTakenBack) {
  Cluster cluster;
  const std::string job = cluster.Submit();
  SimWorker worker("w");
  cluster.Send(worker.Request());
  worker.Restart();
  cluster.Sync(worker);
  EXPECT_EQ(cluster.State(job), Job::QUEUED);
  cluster.Advance(1.1);
  cluster.Sync(worker);
  EXPECT_EQ(worker.attempts.size(), 1u);
  cluster.fixture().CheckHistory(job);
}

TEST(Incarnation, AnEarlierOneIsRefusedAlsoAfterARestartOfTheServer) {
  Cluster cluster;
  SimWorker worker("w");
  const v1::SyncRequest late = worker.Request();
  cluster.Sync(worker);
  worker.Restart();
  const Reply held = cluster.Send(worker.Request());
  for (int round = 0; round < 2; ++round) {
    const Reply reply = cluster.Send(late);
    ASSERT_TRUE(reply->has_value());
    EXPECT_EQ(ReasonOf((*reply)->status()), "WORKER_REPLACED") << (*reply)->status();
    cluster.RestartServer();
  }
}

TEST(Workers, AreListedWithWhatTheyDo) {
  Cluster cluster;
  const std::string job = cluster.Submit();
  SimWorker worker("w", 2);
  cluster.RunOn(worker);
  std::vector<v1::WorkerStatus> workers = cluster.dispatcher().ListWorkers();
  ASSERT_EQ(workers.size(), 1u);
  EXPECT_EQ(workers[0].worker(), "w");
  EXPECT_EQ(workers[0].offer().slots(), 2);
  EXPECT_TRUE(workers[0].connected());
  ASSERT_EQ(workers[0].jobs_size(), 1);
  EXPECT_EQ(workers[0].jobs(0), job);
  cluster.Advance(91);
  EXPECT_FALSE(cluster.dispatcher().ListWorkers()[0].connected());
}

TEST(Workers, WithoutWorkAreForgottenAfterADay) {
  Cluster cluster;
  SimWorker worker("w");
  const Reply held = cluster.Send(worker.Request());
  cluster.Advance(21);
  cluster.Advance(86'400);
  EXPECT_TRUE(cluster.dispatcher().ListWorkers().empty());
  cluster.RestartServer();
  EXPECT_TRUE(cluster.dispatcher().ListWorkers().empty());
}

}  // namespace
}  // namespace thaw
