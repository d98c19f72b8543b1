// One attempt with a real child process (the fake trainer) and a fake server.
#include "worker/agent/attempt_run.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

constexpr char kAttempt[] = "0123456789abcdef0123456789abcdef";

// Answers at once and remembers what was published.
class FakeLink final : public ServerLink {
 public:
  absl::StatusOr<v1::SyncResponse> Sync(const v1::SyncRequest&) override {
    return v1::SyncResponse();
  }
  void CancelSync() override {}
  absl::Status Download(const std::string&, const v1::Artifact&, const std::string& directory,
                        const std::function<bool()>&) override {
    return MakeDirectories(directory);
  }
  absl::Status Publish(const std::string&, const std::string& directory,
                       const v1::FinishUploadRequest& finish,
                       const std::function<bool()>&) override {
    MutexLock lock(mutex_);
    if (!ListFiles(directory).ok()) return absl::NotFoundError(directory);
    if (finish.has_result()) ++results_;
    if (finish.has_checkpoint()) ++checkpoints_;
    return absl::OkStatus();
  }
  int results() const { return results_; }
  int checkpoints() const { return checkpoints_; }

 private:
  mutable Mutex mutex_;
  int results_ = 0;
  int checkpoints_ = 0;
};

class AttemptRunTest : public ::testing::Test {
 protected:
  AttemptRunTest() {
    options_.trainer = std::string(std::getenv("THAW_BIN")) + "/thaw-fake-trainer";
    options_.attempts_dir = dir_.path() + "/attempts";
    assignment_.set_job("job-1");
    assignment_.set_attempt_id(kAttempt);
    assignment_.set_attempt(1);
    for (v1::Artifact* artifact : {assignment_.mutable_model(), assignment_.mutable_dataset()}) {
      artifact->set_digest(Sha256Hex("x"));
    }
    v1::Training& training = *assignment_.mutable_spec()->mutable_training();
    training.mutable_checkpoint()->set_every_steps(5);
    training.add_phases()->set_steps(20);
  }

  void Start(const std::string& fake) {
    if (!fake.empty()) (*assignment_.mutable_spec()->mutable_labels())["fake"] = fake;
    run_ = std::make_unique<AttemptRun>(assignment_, options_, state_, cache_, trainers_, link_,
                                        RealClock());
  }

  // One Sync: everything acknowledged, the lease as given. The report that it carried.
  v1::AttemptReport SyncOnce(int32_t lease_millis) {
    const v1::SyncRequest request = state_.BuildRequest(v1::WorkerOffer(), false);
    v1::SyncResponse response;
    response.set_incarnation(request.incarnation());
    response.set_number(request.number());
    response.mutable_lease()->set_seconds(lease_millis / 1000);
    response.mutable_lease()->set_nanos(lease_millis % 1000 * 1'000'000);
    const v1::AttemptReport& report = request.attempts(0);
    if (!report.events().empty()) sequence_ = report.events().rbegin()->sequence();
    response.add_attempts()->set_attempt_id(kAttempt);
    response.mutable_attempts(0)->set_verdict(v1::DesiredAttempt::RUN);
    response.mutable_attempts(0)->set_acknowledged_sequence(sequence_);
    state_.Apply(response);
    return report;
  }

  // Syncs as the agent would, everything acknowledged, until the attempt has ended.
  v1::AttemptEnd WaitForEnd(v1::DesiredAttempt::Verdict verdict = v1::DesiredAttempt::RUN,
                            int64_t after_events = 0) {
    const int64_t deadline = RealClock().BootMicros() + 60'000'000;
    while (RealClock().BootMicros() < deadline) {
      state_.WaitUntilDue(0.02);
      const v1::SyncRequest request = state_.BuildRequest(v1::WorkerOffer(), false);
      const v1::AttemptReport& report = request.attempts(0);
      if (report.state() == v1::AttemptReport::ENDED) return report.end();
      for (const v1::WorkerEvent& event : report.events()) {
        EXPECT_EQ(event.sequence(), ++sequence_) << "a gap or a repeat after an acknowledgement";
      }
      if (sequence_ > after_events && verdict != v1::DesiredAttempt::RUN) run_->Obey(verdict);
      v1::SyncResponse response;
      response.set_incarnation(request.incarnation());
      response.set_number(request.number());
      response.mutable_lease()->set_seconds(90);
      response.add_attempts()->set_attempt_id(kAttempt);
      response.mutable_attempts(0)->set_verdict(v1::DesiredAttempt::RUN);
      response.mutable_attempts(0)->set_acknowledged_sequence(sequence_);
      state_.Apply(response);
    }
    ADD_FAILURE() << "the attempt did not end";
    return v1::AttemptEnd();
  }

  TempDir dir_;
  AttemptOptions options_;
  v1::Assignment assignment_;
  SyncState state_{"w", "i", RealClock()};
  ArtifactCache cache_{dir_.path() + "/cache", 1 << 20};
  TrainerPool trainers_{WarmOptions(), RealClock()};
  FakeLink link_;
  int64_t sequence_ = 0;
  std::unique_ptr<AttemptRun> run_;
};

TEST_F(AttemptRunTest, PublishesCheckpointsAndOneResult) {
  Start("");
  const v1::AttemptEnd end = WaitForEnd();
  EXPECT_EQ(end.outcome(), v1::AttemptEnd::SUCCEEDED) << end.ShortDebugString();
  EXPECT_EQ(link_.results(), 1);
  EXPECT_GE(link_.checkpoints(), 1);
  EXPECT_GT(sequence_, 1);
  run_.reset();
  EXPECT_FALSE(Exists(options_.attempts_dir + "/" + kAttempt));
}

TEST_F(AttemptRunTest, PassesOnWhatIsAskedForOnceAndInOrder) {
  assignment_.mutable_spec()->mutable_training()->mutable_phases(0)->set_steps(1'000'000);
  google::protobuf::RepeatedPtrField<v1::SteeringRecord> asked;
  for (int number = 1; number <= 3; ++number) {
    asked.Add()->set_number(number);
    asked.rbegin()->mutable_action()->set_checkpoint(true);
  }
  asked.rbegin()->mutable_action()->set_stop(true);
  Start("crawl");
  for (int i = 0; i < 3; ++i) run_->Steer(asked);
  std::vector<int32_t> applied;
  v1::AttemptReport report;
  do {
    state_.WaitUntilDue(0.02);
    report = SyncOnce(90'000);
    for (const v1::WorkerEvent& event : report.events()) {
      if (event.event().has_steering_applied()) {
        applied.push_back(event.event().steering_applied().number());
      }
    }
  } while (report.state() != v1::AttemptReport::ENDED);
  EXPECT_EQ(report.end().outcome(), v1::AttemptEnd::SUCCEEDED) << report.ShortDebugString();
  EXPECT_EQ(applied, (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(link_.results(), 1);
}

TEST_F(AttemptRunTest, MapsWhatGoesWrong) {
  struct Case {
    std::string fake;
    v1::AttemptEnd::Outcome outcome;
    std::string says;
  };
  options_.patience.hang_seconds = 1;
  // A sanitizer makes an exit code of the signal.
  const Case cases[] = {{"crash-at-3", v1::AttemptEnd::CRASHED, "the trainer ended"},
                        {"exit-at-3", v1::AttemptEnd::CRASHED, "ended with code"},
                        {"hang-at-3", v1::AttemptEnd::CRASHED, "no sign of life"},
                        {"lie-frame", v1::AttemptEnd::CRASHED, "no trainer sends"},
                        {"lie-huge", v1::AttemptEnd::CRASHED, "no trainer sends"},
                        {"lie-event", v1::AttemptEnd::CRASHED, "not a trainer's to send"},
                        {"lie-path", v1::AttemptEnd::CRASHED, "outside its work directory"},
                        {"lie-result", v1::AttemptEnd::CRASHED, "a result that is not there"},
                        {"oom-at-3", v1::AttemptEnd::OUT_OF_MEMORY, ""},
                        {"fail-user", v1::AttemptEnd::FAILED, "told to fail"},
                        {"lie-nan", v1::AttemptEnd::CRASHED, "not finite"},
                        {"lie-steps", v1::AttemptEnd::CRASHED, "after step"}};
  for (const Case& one : cases) {
    Start(one.fake);
    const v1::AttemptEnd end = WaitForEnd();
    EXPECT_EQ(end.outcome(), one.outcome) << one.fake << ": " << end.ShortDebugString();
    EXPECT_THAT(end.failure().message(), HasSubstr(one.says)) << one.fake;
    EXPECT_EQ(link_.results(), 0) << one.fake;
    run_.reset();
    sequence_ = 0;
  }
}

TEST_F(AttemptRunTest, ATrainerThatCannotBeStartedIsTheWorkersFault) {
  options_.trainer = dir_.path() + "/none";
  Start("");
  const v1::AttemptEnd end = WaitForEnd();
  EXPECT_EQ(end.failure().blame(), v1::Failure::INFRASTRUCTURE);
  EXPECT_EQ(end.failure().reason(), "TRAINER_NOT_STARTED");
}

TEST_F(AttemptRunTest, PausesWithACheckpointAndStopsWithoutAResult) {
  Start("slow");
  EXPECT_EQ(WaitForEnd(v1::DesiredAttempt::PAUSE, 1).outcome(), v1::AttemptEnd::PAUSED);
  EXPECT_GE(link_.checkpoints(), 1);
  run_.reset();
  sequence_ = 0;
  Start("slow");
  EXPECT_EQ(WaitForEnd(v1::DesiredAttempt::HAND_BACK, 1).outcome(), v1::AttemptEnd::HANDED_BACK);
  run_.reset();
  sequence_ = 0;
  Start("slow");
  EXPECT_EQ(WaitForEnd(v1::DesiredAttempt::STOP, 1).outcome(), v1::AttemptEnd::STOPPED);
  EXPECT_EQ(link_.results(), 0);
}

TEST_F(AttemptRunTest, WithoutALeaseItHoldsAndGoesBackToTheQueueWhenNobodyComes) {
  options_.patience.hold_seconds = 0.3;
  Start("slow");
  while (SyncOnce(200).progress().step() < 2) state_.WaitUntilDue(0.02);
  while (!run_->done()) state_.WaitUntilDue(0.05);  // nobody syncs any more
  EXPECT_EQ(WaitForEnd().outcome(), v1::AttemptEnd::HANDED_BACK);
  EXPECT_EQ(link_.results(), 0);
}

TEST_F(AttemptRunTest, AHeldTrainerGoesOnWhenTheServerIsBack) {
  Start("slow");
  while (SyncOnce(100).progress().step() < 2) state_.WaitUntilDue(0.02);
  // Beats without steps show that it holds.
  int64_t step = -1;
  for (int looks = 0; looks < 200 && step != SyncOnce(0).progress().step(); ++looks) {
    step = SyncOnce(0).progress().step();
    state_.WaitUntilDue(0.5);
  }
  EXPECT_LT(step, 20);
  EXPECT_EQ(WaitForEnd().outcome(), v1::AttemptEnd::SUCCEEDED);
  EXPECT_EQ(link_.results(), 1);
}

TEST_F(AttemptRunTest, ADeafTrainerIsKilled) {
  options_.patience.stop_seconds = 0.5;
  Start("slow.deaf");
  EXPECT_EQ(WaitForEnd(v1::DesiredAttempt::STOP, 1).outcome(), v1::AttemptEnd::STOPPED);
}

}  // namespace
}  // namespace thaw
