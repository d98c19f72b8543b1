// Jobs in a cluster where nothing breaks.
#include <gtest/gtest.h>

#include <csignal>
#include <string>

#include "common/base/files.h"
#include "common/base/json.h"
#include "common/base/sha256.h"
#include "google/protobuf/util/message_differencer.h"
#include "tests/testing/cluster.h"
#include "tests/testing/job_watch.h"

namespace thaw {
namespace {

using google::protobuf::util::MessageDifferencer;

TEST(JobTest, FromSubmissionToTheFetchedResult) {
  Cluster cluster;
  cluster.StartWorker("one");
  const std::string id = cluster.Submit(cluster.Spec("ok", 20, 5));
  JobWatch watch(cluster, id);
  ASSERT_TRUE(watch.WaitForEnd());
  const v1::Job job = cluster.Get(id);
  EXPECT_EQ(job.state(), v1::Job::SUCCEEDED) << job.DebugString();
  EXPECT_EQ(job.attempt(), 1);
  EXPECT_EQ(job.worker(), "one");
  EXPECT_EQ(job.progress().step(), 20);
  EXPECT_NEAR(job.result_metrics().at("loss"), 2.0 / 3.0, 1e-12);
  cluster.CheckHistory(id);
  cluster.CheckLosses(id, 20);

  // The stream told what the list of events tells.
  const std::vector<v1::Event> events = cluster.Events(id);
  const std::vector<v1::Event> seen = watch.events();
  ASSERT_EQ(seen.size(), events.size());
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_TRUE(MessageDifferencer::Equals(seen[i], events[i])) << seen[i].DebugString();
  }
  EXPECT_EQ(watch.streams(), 1);

  const auto fetched = cluster.Fetch(job.result());
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  const auto config = ReadJsonFile(*fetched + "/config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ((*config)["id2label"]["1"], "good");
  EXPECT_TRUE(Exists(*fetched + "/model.safetensors"));
}

TEST(JobTest, ALateWatcherIsToldEverything) {
  Cluster cluster;
  cluster.StartWorker("one");
  const std::string id = cluster.Submit(cluster.Spec("ok"));
  EXPECT_EQ(cluster.WaitForEnd(id).state(), v1::Job::SUCCEEDED);
  JobWatch watch(cluster, id);
  ASSERT_TRUE(watch.WaitForEnd());
  EXPECT_EQ(watch.first_snapshot().state(), v1::Job::SUCCEEDED);
  EXPECT_EQ(watch.events().size(), cluster.Events(id).size());
}

TEST(JobTest, CancelWhileQueued) {
  Cluster cluster;
  const std::string id = cluster.Submit(cluster.Spec("ok"));
  ASSERT_TRUE(cluster.Cancel(id).ok());
  EXPECT_EQ(cluster.Get(id).state(), v1::Job::CANCELLED);
  cluster.StartWorker("one");
  // The worker takes the job behind it, so it has passed this one by.
  EXPECT_EQ(cluster.WaitForEnd(cluster.Submit(cluster.Spec("ok"))).state(), v1::Job::SUCCEEDED);
  EXPECT_EQ(cluster.Get(id).attempt(), 0);
  cluster.CheckHistory(id);
}

TEST(JobTest, CancelWhileRunning) {
  Cluster cluster;
  cluster.StartWorker("one");
  const std::string id = cluster.Submit(cluster.Spec("slow", 2000));
  cluster.WaitForStep(id, 3);
  ASSERT_TRUE(cluster.Cancel(id).ok());
  EXPECT_EQ(cluster.WaitForEnd(id).state(), v1::Job::CANCELLED);
  EXPECT_TRUE(cluster.Cancel(id).ok()) << "again does nothing";
  cluster.CheckHistory(id);
  EXPECT_TRUE(cluster.Artifacts(v1::Artifact::RESULT).empty());
  // The slot is free again.
  EXPECT_EQ(cluster.WaitForEnd(cluster.Submit(cluster.Spec("ok"))).state(), v1::Job::SUCCEEDED);
}

TEST(JobTest, CancelWhileStarting) {
  Cluster cluster;
  cluster.StartWorker("one");
  cluster.WaitForWorker("one", true);
  // A worker that stands still has been given the job but cannot say so.
  cluster.worker("one").Signal(SIGSTOP);
  const std::string id = cluster.Submit(cluster.Spec("slow", 2000));
  cluster.WaitForState(id, v1::Job::STARTING);
  ASSERT_TRUE(cluster.Cancel(id).ok());
  cluster.worker("one").Signal(SIGCONT);
  EXPECT_EQ(cluster.WaitForEnd(id).state(), v1::Job::CANCELLED);
  cluster.CheckHistory(id);
  EXPECT_EQ(cluster.WaitForEnd(cluster.Submit(cluster.Spec("ok"))).state(), v1::Job::SUCCEEDED);
}

TEST(JobTest, CancelWhilePausing) {
  Cluster cluster;
  cluster.StartWorker("one");
  const std::string id = cluster.Submit(cluster.Spec("slow.linger", 2000));
  cluster.WaitForStep(id, 3);
  ASSERT_TRUE(cluster.Pause(id).ok());
  EXPECT_EQ(cluster.Get(id).state(), v1::Job::PAUSING);
  ASSERT_TRUE(cluster.Cancel(id).ok());
  EXPECT_EQ(cluster.WaitForEnd(id).state(), v1::Job::CANCELLED);
  cluster.CheckHistory(id);
}

TEST(JobTest, ATrainerThatDoesNotListenIsEnded) {
  Cluster cluster;
  cluster.StartWorker("one");
  const std::string id = cluster.Submit(cluster.Spec("slow.deaf", 2000));
  cluster.WaitForStep(id, 3);
  ASSERT_TRUE(cluster.Cancel(id).ok());
  EXPECT_EQ(cluster.WaitForEnd(id).state(), v1::Job::CANCELLED);
}

TEST(JobTest, PausedJobsGoOnWhereTheyStopped) {
  Cluster cluster;
  cluster.StartWorker("one");
  const std::string id = cluster.Submit(cluster.Spec("crawl", 60, 1000));
  cluster.WaitForStep(id, 5);
  ASSERT_TRUE(cluster.Pause(id).ok());
  const v1::Job paused = cluster.WaitForState(id, v1::Job::PAUSED);
  const int64_t step = paused.progress().step();
  EXPECT_LT(step, 60);
  // It holds no worker.
  EXPECT_EQ(cluster.WaitForEnd(cluster.Submit(cluster.Spec("ok"))).state(), v1::Job::SUCCEEDED);
  ASSERT_TRUE(cluster.Resume(id).ok());
  const v1::Job job = cluster.WaitForEnd(id);
  EXPECT_EQ(job.state(), v1::Job::SUCCEEDED) << job.DebugString();
  EXPECT_EQ(job.attempt(), 2);
  EXPECT_GE(job.result_metrics().at("first_step"), 5);
  cluster.CheckHistory(id);
  cluster.CheckLosses(id, 60);
  EXPECT_FALSE(cluster.Pause(id).ok());
}

TEST(JobTest, ADrainedWorkerHandsItsJobOver) {
  Cluster cluster;
  cluster.StartWorker("one");
  const std::string id = cluster.Submit(cluster.Spec("slow", 60, 1000));
  cluster.WaitForStep(id, 3);
  ASSERT_TRUE(cluster.Drain("one").ok());
  EXPECT_EQ(cluster.worker("one").Wait(30), 0) << "a drained worker ends by itself";
  cluster.StartWorker("two");
  const v1::Job job = cluster.WaitForEnd(id);
  EXPECT_EQ(job.state(), v1::Job::SUCCEEDED) << job.DebugString();
  EXPECT_EQ(job.worker(), "two");
  EXPECT_GE(job.result_metrics().at("first_step"), 3) << "the checkpoint of the drain was used";
  cluster.CheckHistory(id);
  cluster.CheckLosses(id, 60);
}

TEST(JobTest, SigtermDrainsAWorker) {
  Cluster cluster;
  cluster.StartWorker("one");
  const std::string id = cluster.Submit(cluster.Spec("slow", 2000, 1000));
  cluster.WaitForStep(id, 3);
  cluster.worker("one").Signal(SIGTERM);
  EXPECT_EQ(cluster.worker("one").Wait(30), 0);
  const v1::Job job = cluster.WaitForState(id, v1::Job::QUEUED);
  EXPECT_NE(job.state_reason(), "");
  cluster.CheckHistory(id);
}

TEST(JobTest, TwoSlotsRunTwoJobs) {
  Cluster cluster;
  cluster.StartWorker("one", 2);
  const std::string first = cluster.Submit(cluster.Spec("slow", 2000));
  const std::string second = cluster.Submit(cluster.Spec("slow", 2000));
  const std::string third = cluster.Submit(cluster.Spec("ok"));
  cluster.WaitForStep(first, 2);
  cluster.WaitForStep(second, 2);
  const v1::Job waiting = cluster.Get(third);
  EXPECT_EQ(waiting.state(), v1::Job::QUEUED);
  EXPECT_EQ(waiting.queue_position(), 1);
  ASSERT_TRUE(cluster.Cancel(second).ok());
  EXPECT_EQ(cluster.WaitForEnd(third).state(), v1::Job::SUCCEEDED);
  EXPECT_EQ(cluster.Get(first).state(), v1::Job::RUNNING);
}

}  // namespace
}  // namespace thaw
