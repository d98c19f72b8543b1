// Servers and workers that die, stall and come back.
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>

#include "google/protobuf/util/message_differencer.h"
#include "tests/testing/cluster.h"
#include "tests/testing/job_watch.h"

namespace thaw {
namespace {

using google::protobuf::util::MessageDifferencer;

int CountRolledBack(const std::vector<v1::Event>& events) {
  int count = 0;
  for (const v1::Event& event : events) count += event.has_rolled_back() ? 1 : 0;
  return count;
}

// What a watcher saw through all its streams is the history, whole and once.
void ExpectSawEverything(Cluster& cluster, JobWatch& watch, const std::string& id) {
  const std::vector<v1::Event> events = cluster.Events(id);
  const std::vector<v1::Event> seen = watch.events();
  ASSERT_EQ(seen.size(), events.size());
  for (size_t i = 0; i < events.size(); ++i) {
    ASSERT_EQ(seen[i].sequence(), static_cast<int64_t>(i) + 1);
    ASSERT_TRUE(MessageDifferencer::Equals(seen[i], events[i])) << seen[i].DebugString();
  }
}

// A cluster whose worker "one" runs one job.
class OutageTest : public ::testing::Test {
 protected:
  void Begin(const std::string& fake, int64_t steps, int64_t checkpoint_steps,
             double lease_seconds = ClusterOptions().lease_seconds) {
    ClusterOptions options;
    options.lease_seconds = lease_seconds;
    cluster_ = std::make_unique<Cluster>(options);
    cluster_->StartWorker("one");
    id = cluster_->Submit(cluster_->Spec(fake, steps, checkpoint_steps));
    steps_ = steps;
  }
  Cluster& cluster() { return *cluster_; }
  // Waits for its end, which must be a success in so many attempts with every step told once.
  v1::Job ExpectSuccess(int attempts) {
    const v1::Job job = cluster_->WaitForEnd(id);
    EXPECT_EQ(job.state(), v1::Job::SUCCEEDED) << job.DebugString();
    EXPECT_EQ(job.attempt(), attempts);
    cluster_->CheckHistory(id);
    cluster_->CheckLosses(id, steps_);
    return job;
  }

  std::string id;

 private:
  std::unique_ptr<Cluster> cluster_;
  int64_t steps_ = 0;
};

TEST_F(OutageTest, AKilledServerCostsNothing) {
  Begin("crawl", 100, 20);
  JobWatch watch(cluster(), id);
  ASSERT_TRUE(watch.WaitFor([](const auto& events) { return HasStep(events, 10); }));
  for (const int64_t step : {30, 60}) {
    cluster().KillServer();
    cluster().StartServer();
    watch.ServerIsBack();
    ASSERT_TRUE(watch.WaitFor([&](const auto& events) { return HasStep(events, step); }));
  }
  ASSERT_TRUE(watch.WaitForEnd());
  // The attempt went on.
  ExpectSuccess(1);
  ExpectSawEverything(cluster(), watch, id);
}

TEST_F(OutageTest, AJobThatEndsWhileTheServerIsAwayIsNotLost) {
  Begin("slow", 20, 1000);
  cluster().WaitForStep(id, 10);
  cluster().KillServer();
  // Its trainer works on for half a second.
  EXPECT_TRUE(cluster().worker("one").Wait(1) < 0);
  cluster().StartServer();
  ExpectSuccess(1);
  EXPECT_EQ(cluster().Artifacts(v1::Artifact::RESULT).size(), 1u);
}

TEST_F(OutageTest, AKilledWorkersJobGoesOnFromItsCheckpoint) {
  Begin("slow", 40, 5, /*lease_seconds=*/1);
  JobWatch watch(cluster(), id);
  ASSERT_TRUE(watch.WaitFor([](const auto& events) {
    return HasStep(events, 12) &&
           std::any_of(events.begin(), events.end(),
                       [](const v1::Event& event) { return event.has_checkpoint_committed(); });
  }));
  cluster().worker("one").Kill();
  cluster().StartWorker("two");
  ASSERT_TRUE(watch.WaitForEnd());
  const v1::Job job = ExpectSuccess(2);
  EXPECT_EQ(job.worker(), "two");
  EXPECT_GE(job.result_metrics().at("first_step"), 5);
  EXPECT_EQ(CountRolledBack(watch.events()), 1);
  ExpectSawEverything(cluster(), watch, id);
}

TEST_F(OutageTest, AKilledWorkerThatComesBackTakesItsJobUpAgain) {
  Begin("slow", 30, 5);
  cluster().WaitForStep(id, 8);
  cluster().worker("one").Kill();
  cluster().StartWorker("one");
  ExpectSuccess(2);
}

TEST_F(OutageTest, AnAttemptOutlivesAServerAwayForLongerThanTheLease) {
  Begin("slow", 40, 1000, /*lease_seconds=*/1);
  cluster().WaitForStep(id, 5);
  cluster().KillServer();
  // Longer than lease and grace: the trainer is held by now.
  EXPECT_TRUE(cluster().worker("one").Wait(2.5) < 0);
  cluster().StartServer();
  // Nobody had replaced it.
  ExpectSuccess(1);
}

TEST_F(OutageTest, AStalledWorkersAttemptIsFencedOnceReplaced) {
  Begin("slow", 40, 5, /*lease_seconds=*/1);
  JobWatch watch(cluster(), id);
  ASSERT_TRUE(watch.WaitFor([](const auto& events) { return HasStep(events, 7); }));
  cluster().worker("one").Signal(SIGSTOP);
  cluster().StartWorker("two");
  // The stalled worker's trainer goes on in the meantime and is done before the other.
  ASSERT_TRUE(watch.WaitFor([](const auto& events) {
    return std::any_of(events.begin(), events.end(), [](const v1::Event& event) {
      return event.attempt() == 2 && event.has_metric_points();
    });
  }));
  cluster().worker("one").Signal(SIGCONT);
  ASSERT_TRUE(watch.WaitForEnd());
  const v1::Job job = ExpectSuccess(2);
  EXPECT_EQ(job.worker(), "two");
  const auto results = cluster().Artifacts(v1::Artifact::RESULT);
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].id(), job.result());
  EXPECT_EQ(cluster().Metric("thaw_leases_lost_total"), 1);
  ExpectSawEverything(cluster(), watch, id);
  // Both workers are well: two jobs run side by side.
  const std::string first = cluster().Submit(cluster().Spec("slow", 20));
  const std::string second = cluster().Submit(cluster().Spec("slow", 20));
  EXPECT_EQ(cluster().WaitForEnd(first).state(), v1::Job::SUCCEEDED);
  EXPECT_EQ(cluster().WaitForEnd(second).state(), v1::Job::SUCCEEDED);
  EXPECT_NE(cluster().Get(first).worker(), cluster().Get(second).worker());
}

TEST(OutageOfWorkersTest, LossesInARowEndTheJob) {
  Cluster cluster;
  v1::JobSpec spec = cluster.Spec("slow", 2000, 1000);
  spec.mutable_retry_limits()->set_losses_in_a_row(2);
  const std::string id = cluster.Submit(spec);
  for (int attempt = 1; attempt <= 2; ++attempt) {
    cluster.StartWorker("one");
    cluster.WaitUntil(
        id,
        [&](const v1::Job& job) {
          return job.attempt() == attempt && job.state() == v1::Job::RUNNING &&
                 job.progress().step() > 0;
        },
        "ran");
    cluster.worker("one").Kill();
  }
  cluster.StartWorker("one");
  const v1::Job job = cluster.WaitForEnd(id);
  EXPECT_EQ(job.state(), v1::Job::FAILED) << job.DebugString();
  EXPECT_EQ(job.failure().blame(), v1::Failure::INFRASTRUCTURE);
  EXPECT_EQ(job.failure().reason(), "ATTEMPTS_LOST");
  cluster.CheckHistory(id);
}

TEST(OutageOfWorkersTest, ANameTakenOverByAnotherProcessEndsTheFirst) {
  Cluster cluster;
  cluster.StartWorker("one");
  cluster.WaitForWorker("one", true);
  ChildProcess second(
      {std::string(getenv("THAW_BIN")) + "/thaw-worker", "--server", cluster.address(),
       "--token_file", cluster.directory() + "/data/worker_token", "--name", "one", "--work_dir",
       cluster.directory() + "/other", "--trainer",
       std::string(getenv("THAW_BIN")) + "/thaw-fake-trainer"},
      cluster.directory() + "/two.log");
  EXPECT_EQ(cluster.worker("one").Wait(30), 1);
  EXPECT_EQ(cluster.WaitForEnd(cluster.Submit(cluster.Spec("ok"))).state(), v1::Job::SUCCEEDED);
}

}  // namespace
}  // namespace thaw
