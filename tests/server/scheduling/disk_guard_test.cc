#include "server/scheduling/disk_guard.h"

#include <set>

#include "common/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/scheduling/cluster.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;
using v1::AttemptEnd;
using v1::DesiredAttempt;
using v1::Job;

constexpr int64_t kPauseBelow = 500;
constexpr int64_t kResumeAbove = 1000;

// A cluster with a worker of three slots on a disk of which the test says how full it is.
class DiskGuardTest : public ::testing::Test {
 protected:
  DiskGuardTest() { StartGuard(); }

  void StartGuard() {
    guard_ = std::make_unique<DiskGuard>(
        cluster_.store(), cluster_.dispatcher(),
        std::vector<GuardedDisk>{
            {.free_bytes = [this]() -> absl::StatusOr<int64_t> { return free_; },
             .takes_checkpoints = true},
            {.free_bytes = []() -> absl::StatusOr<int64_t> {
              return absl::UnavailableError("cannot be asked");
            }}},
        [this](int64_t bytes) { need_ = bytes; },
        DiskGuardOptions{.pause_below_bytes = kPauseBelow,
                         .resume_above_bytes = kResumeAbove,
                         .run_thread = false});
    ASSERT_TRUE(guard_->Start().ok());
  }
  void SetFree(int64_t bytes) {
    free_ = bytes;
    guard_->Tick();
    cluster_.Settle();
  }
  // Gives it a worker and lets it run.
  std::string SubmitAndRun() {
    const std::string job = cluster_.Submit();
    cluster_.Sync(worker_);
    for (auto& [id, attempt] : worker_.attempts) attempt.state = v1::AttemptReport::RUNNING;
    cluster_.Sync(worker_);
    EXPECT_EQ(cluster_.State(job), Job::RUNNING);
    return job;
  }
  // One whose checkpoints take 2,000 bytes.
  std::string SubmitAndRunLarge() {
    v1::Artifact model;
    model.set_id(absl::StrCat("model-large-", large_.size()));
    model.set_kind(v1::Artifact::MODEL);
    model.set_owner("ann");
    model.set_state(v1::Artifact::READY);
    model.set_size_bytes(999999);  // its directory may hold anything
    model.mutable_model()->set_parameters(250);
    EXPECT_TRUE(
        cluster_.store().Write([&](Transaction& t) { return InsertArtifact(t, model); }).ok());
    NewJob submission = StoreFixture::Submission();
    for (v1::JobSpec* spec : {&submission.spec, &submission.resolved_spec}) {
      spec->set_base_model(model.id());
    }
    const std::string job = cluster_.Submit(submission);
    large_.insert(job);
    cluster_.Sync(worker_);
    for (auto& [id, attempt] : worker_.attempts) attempt.state = v1::AttemptReport::RUNNING;
    v1::SyncRequest request = worker_.Request();
    for (v1::AttemptReport& attempt : *request.mutable_attempts()) {
      if (large_.count(attempt.job()) != 0) {
        attempt.mutable_progress()->set_trainable_share(0.5);
      }
    }
    Cluster::Deliver(worker_, cluster_.Send(request));
    EXPECT_EQ(cluster_.State(job), Job::RUNNING);
    return job;
  }
  // Its trainer ends as it was told to.
  void EndPaused(const std::string& job) {
    cluster_.Sync(worker_);
    for (auto& [id, attempt] : worker_.attempts) {
      if (attempt.job != job) continue;
      EXPECT_EQ(attempt.verdict, DesiredAttempt::PAUSE);
      SimWorker::End(attempt, AttemptEnd::PAUSED);
    }
    cluster_.Sync(worker_);
  }
  std::string Reason(const std::string& job) { return cluster_.Get(job).state_reason(); }

  Cluster cluster_;
  SimWorker worker_{"w", 3};
  int64_t free_ = 10'000;
  int64_t need_ = -1;
  std::set<std::string> large_;
  std::unique_ptr<DiskGuard> guard_;
};

TEST_F(DiskGuardTest, PausesWhatRunsAndLetsItGoOn) {
  const std::string job = SubmitAndRun();
  SetFree(kPauseBelow);
  EXPECT_EQ(cluster_.State(job), Job::RUNNING);
  EXPECT_FALSE(guard_->IsShort());
  SetFree(kPauseBelow - 1);
  EXPECT_TRUE(guard_->IsShort());
  EXPECT_EQ(cluster_.State(job), Job::PAUSING);
  EXPECT_THAT(Reason(job), HasSubstr("disk is short"));
  EndPaused(job);
  EXPECT_EQ(cluster_.State(job), Job::PAUSED);
  EXPECT_THAT(Reason(job), HasSubstr("delete artifacts that nobody needs"));
  EXPECT_THAT(Reason(job), HasSubstr("goes on by itself"));
  SetFree(kResumeAbove - 1);
  EXPECT_EQ(cluster_.State(job), Job::PAUSED) << "between the marks nothing changes";
  SetFree(kResumeAbove);
  EXPECT_FALSE(guard_->IsShort());
  EXPECT_EQ(cluster_.State(job), Job::STARTING) << "its worker's Sync was waiting";
  cluster_.fixture().CheckHistory(job);
}

TEST_F(DiskGuardTest, NothingStartsWhileItIsShort) {
  SetFree(0);
  const std::string job = cluster_.Submit();
  cluster_.Sync(worker_);
  EXPECT_EQ(cluster_.State(job), Job::QUEUED);
  EXPECT_THAT(Reason(job), HasSubstr("disk is short"));
  SetFree(kResumeAbove);
  cluster_.Sync(worker_);
  EXPECT_EQ(cluster_.State(job), Job::STARTING);
}

TEST_F(DiskGuardTest, WhatAUserPausedStaysPaused) {
  const std::string before = SubmitAndRun();
  ASSERT_TRUE(cluster_.Pause(before).ok());
  EndPaused(before);
  const std::string meanwhile = SubmitAndRun();
  SetFree(0);
  EndPaused(meanwhile);
  ASSERT_TRUE(cluster_.Pause(meanwhile).ok());
  EXPECT_EQ(Reason(meanwhile), "paused");
  SetFree(kResumeAbove);
  guard_->Tick();
  EXPECT_EQ(cluster_.State(before), Job::PAUSED);
  EXPECT_EQ(cluster_.State(meanwhile), Job::PAUSED);
}

TEST_F(DiskGuardTest, WhatStillWritesItsCheckpointGoesOnAfterThat) {
  const std::string job = SubmitAndRun();
  SetFree(0);
  SetFree(kResumeAbove);
  EXPECT_EQ(cluster_.State(job), Job::PAUSING);
  EndPaused(job);
  EXPECT_EQ(cluster_.State(job), Job::PAUSED);
  guard_->Tick();
  cluster_.Settle();
  EXPECT_NE(cluster_.State(job), Job::PAUSED);
}

TEST_F(DiskGuardTest, AnAttemptThatComesBackIsPausedToo) {
  const std::string job = SubmitAndRun();
  cluster_.Advance(300);  // its worker is called lost
  ASSERT_EQ(cluster_.State(job), Job::QUEUED);
  SetFree(0);
  cluster_.Sync(worker_);
  ASSERT_EQ(cluster_.State(job), Job::RUNNING);
  guard_->Tick();
  EXPECT_EQ(cluster_.State(job), Job::PAUSING);
}

TEST_F(DiskGuardTest, ARestartForgetsNothing) {
  const std::string job = SubmitAndRun();
  SetFree(0);
  EndPaused(job);
  guard_.reset();
  cluster_.RestartServer();
  free_ = kResumeAbove - 1;
  StartGuard();
  EXPECT_TRUE(guard_->IsShort());
  EXPECT_EQ(cluster_.State(job), Job::PAUSED);
  SetFree(kResumeAbove);
  EXPECT_EQ(cluster_.State(job), Job::QUEUED);
}

TEST_F(DiskGuardTest, TheMarksLeaveRoomForCheckpoints) {
  const std::string job = SubmitAndRunLarge();
  guard_->Tick();
  EXPECT_EQ(need_, 2000) << "four times half of the model";

  NewCheckpoint checkpoint;
  checkpoint.artifact.set_id("checkpoint-1");
  checkpoint.artifact.set_size_bytes(3000);
  checkpoint.step = 1;
  ASSERT_TRUE(
      cluster_.store()
          .Write([&](Transaction& t) { return CommitCheckpoint(t, worker_.only_id(), checkpoint); })
          .ok());
  SetFree(3000 + kPauseBelow);
  EXPECT_EQ(need_, 3000) << "its newest is larger than that";
  EXPECT_EQ(cluster_.State(job), Job::RUNNING);
  SetFree(3000 + kPauseBelow - 1);
  EXPECT_EQ(cluster_.State(job), Job::PAUSING);
  EndPaused(job);
  SetFree(3000 + kResumeAbove - 1);
  EXPECT_EQ(cluster_.State(job), Job::PAUSED) << "it will need that room again";
  SetFree(3000 + kResumeAbove);
  EXPECT_EQ(cluster_.State(job), Job::STARTING);
}

TEST_F(DiskGuardTest, AJobThatCannotFitKeepsNobodyElseWaiting) {
  const std::string small = SubmitAndRun();
  const std::string large = SubmitAndRunLarge();
  SetFree(2000 + kPauseBelow - 1);
  EXPECT_EQ(cluster_.State(large), Job::PAUSING);
  EXPECT_EQ(cluster_.State(small), Job::RUNNING);
  EXPECT_FALSE(guard_->IsShort());
  EXPECT_EQ(need_, 0) << "nothing is kept for what cannot be written";
  EndPaused(large);
  EXPECT_EQ(cluster_.State(large), Job::PAUSED);
  SubmitAndRun();
  SetFree(2000 + kResumeAbove);
  EXPECT_EQ(cluster_.State(large), Job::STARTING);
}

TEST_F(DiskGuardTest, WhereNotAllFitTheOldestRunsAndNothingNewStarts) {
  const std::string older = SubmitAndRunLarge();
  const std::string younger = SubmitAndRunLarge();
  SetFree(4000 + kPauseBelow);
  EXPECT_EQ(cluster_.State(younger), Job::RUNNING);
  SetFree(4000 + kPauseBelow - 1);
  EXPECT_EQ(cluster_.State(older), Job::RUNNING);
  EXPECT_EQ(cluster_.State(younger), Job::PAUSING);
  EXPECT_TRUE(guard_->IsShort());
  EXPECT_EQ(need_, 4000) << "its room is kept from uploads";
  EndPaused(younger);
  const std::string next = cluster_.Submit();
  cluster_.Sync(worker_);
  EXPECT_EQ(cluster_.State(next), Job::QUEUED);
  SetFree(4000 + kResumeAbove);
  cluster_.Sync(worker_);
  EXPECT_EQ(cluster_.State(younger), Job::STARTING);
  EXPECT_EQ(cluster_.State(next), Job::STARTING);
}

TEST_F(DiskGuardTest, WhoComesBackStartsAndKeepsItsRoom) {
  const std::string older = SubmitAndRunLarge();
  const std::string younger = SubmitAndRunLarge();
  for (const auto& [id, attempt] : worker_.attempts) {
    NewCheckpoint checkpoint;
    checkpoint.artifact.set_id("checkpoint-" + attempt.job);
    checkpoint.artifact.set_size_bytes(2000);
    checkpoint.step = 1;
    ASSERT_TRUE(
        cluster_.store()
            .Write([&, id = id](Transaction& t) { return CommitCheckpoint(t, id, checkpoint); })
            .ok());
  }
  SetFree(0);
  EndPaused(older);
  EndPaused(younger);
  SetFree(2000 + kResumeAbove);
  cluster_.Sync(worker_);
  EXPECT_EQ(cluster_.State(older), Job::STARTING) << "though the other one waits";
  guard_->Tick();
  EXPECT_EQ(cluster_.State(younger), Job::PAUSED);
  EXPECT_TRUE(guard_->IsShort());
  EXPECT_EQ(need_, 4000);
}

}  // namespace
}  // namespace thaw
