// Offers, acceptance, order of messages, acknowledgements.
#include "server/scheduling/dispatcher.h"

#include <condition_variable>
#include <mutex>
#include <vector>

#include "common/base/status.h"
#include "gtest/gtest.h"
#include "tests/server/scheduling/cluster.h"

namespace thaw {
namespace {

using v1::DesiredAttempt;
using v1::Job;
using DispatcherOfARunningJob = RunningJobTest;

TEST(Dispatcher, AnIdleWorkerIsHeldUntilWorkArrives) {
  Cluster cluster;
  SimWorker worker("w");
  const Reply reply = cluster.Send(worker.Request());
  ASSERT_FALSE(reply->has_value());
  const std::string job = cluster.Submit();
  ASSERT_TRUE(reply->has_value());
  ASSERT_TRUE((*reply)->ok()) << (*reply)->status();
  const v1::SyncResponse& response = ***reply;
  EXPECT_EQ(response.incarnation(), worker.incarnation());
  EXPECT_EQ(response.number(), 1);
  EXPECT_EQ(response.lease().seconds(), 90);
  EXPECT_EQ(response.next_sync().seconds(), 1);
  ASSERT_EQ(response.attempts_size(), 1);
  EXPECT_EQ(response.attempts(0).verdict(), DesiredAttempt::RUN);
  const v1::Assignment& assignment = response.attempts(0).assignment();
  EXPECT_EQ(assignment.job(), job);
  EXPECT_EQ(assignment.attempt(), 1);
  EXPECT_EQ(assignment.attempt_id().size(), 32u);
  EXPECT_EQ(assignment.model().id(), "model-1");
  EXPECT_EQ(assignment.dataset().id(), "dataset-1");
  EXPECT_EQ(assignment.spec().resources().device_kind(), v1::Resources::CPU);
  EXPECT_EQ(cluster.State(job), Job::STARTING);
}

TEST(Dispatcher, AHeldSyncIsAnsweredWithNothingAfterTheHang) {
  Cluster cluster;
  SimWorker worker("w");
  const Reply reply = cluster.Send(worker.Request());
  cluster.Advance(19.9);
  EXPECT_FALSE(reply->has_value());
  cluster.Advance(0.2);
  ASSERT_TRUE(reply->has_value() && (*reply)->ok());
  EXPECT_EQ((**reply)->attempts_size(), 0);
  EXPECT_EQ((**reply)->next_sync().seconds(), 0);
}

TEST(Dispatcher, TheHangStaysWithinTheLease) {
  DispatcherOptions options;
  options.lease_seconds = 6;
  Cluster cluster(options);
  SimWorker worker("w");
  const Reply reply = cluster.Send(worker.Request());
  cluster.Advance(2.1);
  EXPECT_TRUE(reply->has_value());
}

TEST(Dispatcher, TellsHowLongSchedulingAndCommitsTook) {
  std::vector<double> runs, commits;
  DispatcherOptions options;
  options.on_schedule_seconds = [&](double seconds) { runs.push_back(seconds); };
  options.on_sync_commit_seconds = [&](double seconds) { commits.push_back(seconds); };
  Cluster cluster(options);
  SimWorker worker("w");
  const Reply held = cluster.Send(worker.Request());
  EXPECT_EQ(runs.size(), 0u) << "there was nothing to schedule";
  cluster.Submit();
  EXPECT_EQ(runs.size(), 1u);
  Cluster::Deliver(worker, held);
  const size_t before = commits.size();
  worker.only().state = v1::AttemptReport::RUNNING;
  cluster.Sync(worker);
  ASSERT_EQ(commits.size(), before + 1);
  EXPECT_GT(runs[0], 0);
  EXPECT_GT(commits.back(), 0);
}

TEST(Dispatcher, AnAttemptIsOnDiskBeforeItIsOffered) {
  Cluster cluster;
  cluster.Submit();
  SimWorker worker("w");
  const Reply reply = cluster.Send(worker.Request());
  ASSERT_TRUE(reply->has_value() && (*reply)->ok());
  const std::string id = (**reply)->attempts(0).attempt_id();
  auto attempt = cluster.store().Read([&](Reader& r) { return GetLiveAttempt(r, id); });
  ASSERT_TRUE(attempt.ok());
  EXPECT_EQ(attempt->state, AttemptState::kOffered);
  worker.Apply(***reply);
  cluster.Sync(worker);
  attempt = cluster.store().Read([&](Reader& r) { return GetLiveAttempt(r, id); });
  EXPECT_EQ(attempt->state, AttemptState::kAccepted);
}

TEST(Dispatcher, ALostOfferIsRepeatedUntilItIsReported) {
  Cluster cluster;
  cluster.Submit();
  SimWorker worker("w");
  const Reply lost = cluster.Send(worker.Request());
  const Reply again = cluster.Send(worker.Request());
  ASSERT_TRUE(again->has_value() && (*again)->ok());
  EXPECT_EQ((**again)->attempts(0).attempt_id(), (**lost)->attempts(0).attempt_id());
  EXPECT_TRUE((**again)->attempts(0).has_assignment());
  Cluster::Deliver(worker, again);
  const Reply third = cluster.Sync(worker);
  EXPECT_EQ((**third)->attempts(0).verdict(), DesiredAttempt::RUN);
  EXPECT_FALSE((**third)->attempts(0).has_assignment());
}

TEST_F(DispatcherOfARunningJob, AJobGoesThroughItsStatesAndEndsOnce) {
  EXPECT_EQ(cluster.State(job), Job::RUNNING);
  ASSERT_TRUE(cluster.Publish(worker.only_id()).ok());
  EXPECT_EQ(cluster.State(job), Job::SUCCEEDED);
  SimWorker::End(worker.only(), v1::AttemptEnd::SUCCEEDED);
  cluster.Sync(worker);
  EXPECT_TRUE(worker.attempts.empty());
  EXPECT_EQ(cluster.State(job), Job::SUCCEEDED);
  EXPECT_EQ(cluster.dispatcher().Stats().stale_reports, 0);
  cluster.fixture().CheckHistory(job);
}

TEST_F(DispatcherOfARunningJob, AnAcceptedAttemptThatIsNotReportedIsLost) {
  worker.attempts.clear();
  cluster.Sync(worker);
  const Job after = cluster.fixture().Get(job);
  EXPECT_EQ(after.state(), Job::QUEUED);
  EXPECT_NE(after.state_reason().find("does not hold it"), std::string::npos)
      << after.state_reason();
  cluster.Advance(1.1);  // the back-off
  cluster.Sync(worker);
  EXPECT_EQ(worker.attempts.size(), 1u);
  EXPECT_EQ(cluster.fixture().Get(job).attempt(), 2);
}

TEST(Dispatcher, AnOldRequestIsRefusedAndChangesNothing) {
  Cluster cluster;
  const std::string job = cluster.Submit();
  SimWorker worker("w");
  const v1::SyncRequest old = worker.Request();
  cluster.RunOn(worker);
  const Reply reply = cluster.Send(old);
  ASSERT_TRUE(reply->has_value());
  EXPECT_TRUE(absl::IsAborted((*reply)->status()));
  EXPECT_EQ(ReasonOf((*reply)->status()), "SYNC_OUTDATED");
  EXPECT_EQ(cluster.State(job), Job::RUNNING);
}

TEST(Dispatcher, ARequestFromBeforeTheAcceptanceCannotMissTheAttemptAfterARestart) {
  Cluster cluster;
  const std::string job = cluster.Submit();
  SimWorker worker("w");
  const v1::SyncRequest old = worker.Request();
  cluster.RunOn(worker);
  cluster.RestartServer();  // it has forgotten which numbers it saw
  cluster.Send(old);
  EXPECT_EQ(cluster.State(job), Job::RUNNING);
  cluster.Sync(worker);
  EXPECT_EQ(cluster.State(job), Job::RUNNING);
  EXPECT_EQ(worker.attempts.size(), 1u);
}

TEST_F(DispatcherOfARunningJob, ARepeatedRequestReplacesTheFirstAndCountsNothingTwice) {
  SimWorker::AddLog(worker.only(), "one");
  SimWorker::AddLog(worker.only(), "two");
  const v1::SyncRequest request = worker.Request();
  for (int i = 0; i < 3; ++i) {
    const Reply reply = cluster.Send(request);
    ASSERT_TRUE(reply->has_value() && (*reply)->ok());
    EXPECT_EQ((**reply)->attempts(0).acknowledged_sequence(), 2);
  }
  int lines = 0;
  for (const v1::Event& event : cluster.fixture().Events(job))
    lines += event.has_log_line() ? 1 : 0;
  EXPECT_EQ(lines, 2);
  cluster.fixture().CheckHistory(job);
}

TEST(Dispatcher, AHeldSyncGivesWayToTheNextOne) {
  Cluster cluster;
  SimWorker worker("w");
  const Reply first = cluster.Send(worker.Request());
  const Reply second = cluster.Send(worker.Request());
  ASSERT_TRUE(first->has_value());
  EXPECT_EQ(ReasonOf((*first)->status()), "SYNC_OUTDATED");
  EXPECT_FALSE(second->has_value());
  cluster.Submit();
  ASSERT_TRUE(second->has_value());
  EXPECT_EQ((**second)->attempts_size(), 1);
}

TEST_F(DispatcherOfARunningJob, EventsAfterAGapWait) {
  for (const char* text : {"1", "2", "3", "4"}) SimWorker::AddLog(worker.only(), text);
  v1::SyncRequest request = worker.Request();
  request.mutable_attempts(0)->mutable_events()->DeleteSubrange(1, 1);  // the second one is missing
  const Reply reply = cluster.Send(request);
  EXPECT_EQ((**reply)->attempts(0).acknowledged_sequence(), 1);
  Cluster::Deliver(worker, reply);
  const Reply whole = cluster.Sync(worker);
  EXPECT_EQ((**whole)->attempts(0).acknowledged_sequence(), 4);
  std::string lines;
  for (const v1::Event& event : cluster.fixture().Events(job)) {
    if (event.has_log_line()) lines += event.log_line().text();
  }
  EXPECT_EQ(lines, "1234");
}

TEST_F(DispatcherOfARunningJob, ASyncIsAnsweredOnlyAfterTheCommit) {
  SimWorker::AddLog(worker.only(), "one");

  std::mutex mutex;
  std::condition_variable released;
  bool release = false;
  cluster.store().Enqueue(
      [&](Transaction&) {
        std::unique_lock<std::mutex> lock(mutex);
        released.wait(lock, [&] { return release; });
        return absl::OkStatus();
      },
      [](absl::Status) {});
  std::optional<absl::StatusOr<v1::SyncResponse>> answer;
  cluster.dispatcher().Sync(worker.Request(),
                            [&](absl::StatusOr<v1::SyncResponse> response) { answer = response; });
  cluster.dispatcher().Tick();
  EXPECT_FALSE(answer.has_value());
  {
    std::lock_guard<std::mutex> lock(mutex);
    release = true;
  }
  released.notify_all();
  cluster.Settle();
  ASSERT_TRUE(answer.has_value() && answer->ok());
  EXPECT_EQ((*answer)->attempts(0).acknowledged_sequence(), 1);
}

TEST(Dispatcher, AStaleAttemptDoesNotBlockItsSiblings) {
  Cluster cluster;
  cluster.Submit();
  const std::string second = cluster.Submit();
  SimWorker worker("w", /*slots=*/2);
  cluster.Sync(worker);
  ASSERT_EQ(worker.attempts.size(), 2u);
  worker.attempts[std::string(32, 'f')].job = "job-of-nobody";
  for (auto& [id, attempt] : worker.attempts) {
    attempt.state = v1::AttemptReport::RUNNING;
    SimWorker::AddLog(attempt, "line");
  }
  const Reply reply = cluster.Sync(worker);
  ASSERT_TRUE((*reply)->ok());
  std::map<int, int> verdicts;
  for (const DesiredAttempt& desired : (**reply)->attempts()) ++verdicts[desired.verdict()];
  EXPECT_EQ(verdicts[DesiredAttempt::RUN], 2);
  EXPECT_EQ(verdicts[DesiredAttempt::FORGET], 1);
  EXPECT_EQ(worker.attempts.size(), 2u);
  EXPECT_EQ(cluster.dispatcher().Stats().stale_reports, 1);
  EXPECT_EQ(cluster.store().Stats().fenced_writes, 1);
  EXPECT_EQ(cluster.State(second), Job::RUNNING);
}

TEST_F(DispatcherOfARunningJob, AnAttemptOfAnotherWorkerIsStale) {
  SimWorker thief("thief");
  thief.attempts = worker.attempts;
  SimWorker::End(thief.only(), v1::AttemptEnd::FAILED);
  cluster.Sync(thief);
  EXPECT_TRUE(thief.attempts.empty());
  EXPECT_EQ(cluster.State(job), Job::RUNNING);
}

TEST(Dispatcher, AnOfferThatNobodyFetchesGoesToAnother) {
  Cluster cluster;
  SimWorker silent("a-silent");
  const Reply reply = cluster.Send(silent.Request());
  cluster.Cancel(reply);
  EXPECT_TRUE(absl::IsCancelled((*reply)->status()));
  const std::string job = cluster.Submit();
  EXPECT_EQ(cluster.State(job), Job::STARTING);  // it asked a moment ago
  SimWorker other("other");
  cluster.Sync(other);
  EXPECT_TRUE(other.attempts.empty());
  cluster.Advance(5.1);
  cluster.Sync(other);
  ASSERT_EQ(other.attempts.size(), 1u);
  const Job after = cluster.fixture().Get(job);
  EXPECT_EQ(after.worker(), "other");
  EXPECT_EQ(after.attempt(), 2);
  cluster.fixture().CheckHistory(job);
}

TEST(Dispatcher, AMalformedRequestIsRefused) {
  Cluster cluster;
  SimWorker worker("w");
  v1::SyncRequest request = worker.Request();
  request.set_incarnation("short");
  const Reply reply = cluster.Send(request);
  EXPECT_TRUE(absl::IsInvalidArgument((*reply)->status()));
  EXPECT_TRUE(cluster.dispatcher().ListWorkers().empty());
}

TEST(Dispatcher, StoppingAnswersWhatIsHeld) {
  Cluster cluster;
  SimWorker worker("w");
  const Reply held = cluster.Send(worker.Request());
  cluster.dispatcher().Stop();
  ASSERT_TRUE(held->has_value());
  EXPECT_TRUE(absl::IsUnavailable((*held)->status()));
  const Reply later = cluster.Send(worker.Request());
  EXPECT_TRUE(absl::IsUnavailable((*later)->status()));
}

TEST(Dispatcher, QueuedJobsSayWhatTheyWaitFor) {
  Cluster cluster;
  const std::string first = cluster.Submit();
  EXPECT_EQ(cluster.Get(first).queue_position(), 1);
  EXPECT_NE(cluster.Get(first).state_reason().find("no worker is connected"), std::string::npos);
  SimWorker worker("w");
  cluster.RunOn(worker);
  EXPECT_EQ(cluster.Get(first).queue_position(), 0);
  const std::string second = cluster.Submit();
  const std::string third = cluster.Submit();
  cluster.Advance(0.3);
  EXPECT_EQ(cluster.Get(second).queue_position(), 1);
  EXPECT_EQ(cluster.Get(third).queue_position(), 2);
  EXPECT_NE(cluster.Get(third).state_reason().find("1 job is before it"), std::string::npos);
  NewJob large = StoreFixture::Submission();
  large.resolved_spec.mutable_resources()->set_device_kind(v1::Resources::CUDA);
  EXPECT_NE(cluster.Get(cluster.Submit(large)).state_reason().find("CUDA"), std::string::npos);
}

TEST(Dispatcher, TheIntervalGrowsWithTheLoad) {
  Cluster cluster;
  for (int i = 0; i < 100; ++i) cluster.fixture().Submit();
  SimWorker worker("w", /*slots=*/100);
  cluster.Sync(worker);
  EXPECT_EQ(worker.attempts.size(), 100u);
  const Reply reply = cluster.Sync(worker);
  EXPECT_EQ((**reply)->next_sync().seconds(), 1);
  EXPECT_EQ((**reply)->next_sync().nanos(), 200'000'000);
}

}  // namespace
}  // namespace thaw
