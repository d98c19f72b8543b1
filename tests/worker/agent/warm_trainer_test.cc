// Trainers that are kept between predictions: attempts as in attempt_run_test.cc, one after the
// other on one worker.
#include <csignal>
#include <cstdlib>

#include "common/base/files.h"
#include "common/base/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"
#include "worker/agent/attempt_run.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

// Takes every result and remembers what was said of it.
class ResultLink final : public ServerLink {
 public:
  absl::StatusOr<v1::SyncResponse> Sync(const v1::SyncRequest&) override {
    return v1::SyncResponse();
  }
  void CancelSync() override {}
  absl::Status Download(const std::string&, const v1::Artifact&, const std::string& directory,
                        const std::function<bool()>&) override {
    return MakeDirectories(directory);
  }
  absl::Status Publish(const std::string&, const std::string&,
                       const v1::FinishUploadRequest& finish,
                       const std::function<bool()>&) override {
    MutexLock lock(mutex_);
    metrics_ = {finish.result().metrics().begin(), finish.result().metrics().end()};
    return absl::OkStatus();
  }
  double Metric(const std::string& name) const {
    MutexLock lock(mutex_);
    const auto found = metrics_.find(name);
    return found == metrics_.end() ? -1 : found->second;
  }

 private:
  mutable Mutex mutex_;
  std::map<std::string, double> metrics_ THAW_GUARDED_BY(mutex_);
};

class ShiftedClock final : public Clock {
 public:
  int64_t WallMicros() const override { return RealClock().WallMicros(); }
  int64_t BootMicros() const override { return RealClock().BootMicros() + shift_; }
  void Advance(double seconds) { shift_ += static_cast<int64_t>(seconds * 1e6); }

 private:
  std::atomic<int64_t> shift_{0};
};

class WarmTrainerTest : public ::testing::Test {
 protected:
  WarmTrainerTest() {
    options_.trainer = std::string(std::getenv("THAW_BIN")) + "/thaw-fake-trainer";
    options_.attempts_dir = dir_.path() + "/attempts";
  }

  v1::Assignment Prediction(const std::string& model, const std::string& fake) {
    v1::Assignment assignment;
    assignment.set_job("job");
    assignment.set_attempt_id(Sha256Hex(std::to_string(++attempts_)).substr(0, 32));
    assignment.set_attempt(1);
    assignment.mutable_model()->set_digest(Sha256Hex(model));
    assignment.mutable_spec()->mutable_prediction();
    (*assignment.mutable_spec()->mutable_labels())["fake"] = fake;
    return assignment;
  }

  // To its end. Leaves the trainer's output in output_.
  v1::AttemptEnd Run(const v1::Assignment& assignment) {
    AttemptRun run(assignment, options_, state_, cache_, *trainers_, link_, RealClock());
    const int64_t deadline = RealClock().BootMicros() + 60'000'000;
    int64_t sequence = 0;
    while (RealClock().BootMicros() < deadline) {
      state_.WaitUntilDue(0.02);
      const v1::SyncRequest request = state_.BuildRequest(v1::WorkerOffer(), false);
      const v1::AttemptReport& report = request.attempts(0);
      if (report.state() == v1::AttemptReport::ENDED) {
        output_ = *ReadFile(run.log_file());
        return report.end();
      }
      if (!report.events().empty()) sequence = report.events().rbegin()->sequence();
      v1::SyncResponse response;
      response.set_incarnation(request.incarnation());
      response.set_number(request.number());
      response.mutable_lease()->set_seconds(90);
      response.add_attempts()->set_attempt_id(assignment.attempt_id());
      response.mutable_attempts(0)->set_verdict(v1::DesiredAttempt::RUN);
      response.mutable_attempts(0)->set_acknowledged_sequence(sequence);
      state_.Apply(response);
    }
    ADD_FAILURE() << "the attempt did not end";
    return v1::AttemptEnd();
  }
  void Predict(const std::string& model, const std::string& fake = "") {
    const v1::AttemptEnd end = Run(Prediction(model, fake));
    EXPECT_EQ(end.outcome(), v1::AttemptEnd::SUCCEEDED) << end.ShortDebugString();
  }
  pid_t pid() const { return static_cast<pid_t>(link_.Metric("pid")); }
  double earlier() const { return link_.Metric("earlier_attempts"); }
  static bool Lives(pid_t pid) { return kill(pid, 0) == 0; }

  TempDir dir_;
  AttemptOptions options_;
  SyncState state_{"w", "i", RealClock()};
  ArtifactCache cache_{dir_.path() + "/cache", 1 << 20};
  ResultLink link_;
  ShiftedClock clock_;
  std::unique_ptr<TrainerPool> trainers_ =
      std::make_unique<TrainerPool>(WarmOptions{.seconds = 60}, clock_);
  std::string output_;
  int attempts_ = 0;
};

TEST_F(WarmTrainerTest, TheNextPredictionOnTheModelUsesIt) {
  Predict("a");
  const pid_t first = pid();
  EXPECT_EQ(earlier(), 0);
  EXPECT_TRUE(Lives(first));
  Predict("a");
  EXPECT_EQ(pid(), first);
  EXPECT_EQ(earlier(), 1);
  EXPECT_THAT(output_, HasSubstr("attempt 1")) << "its output is that of the second attempt";
}

TEST_F(WarmTrainerTest, OtherWorkEndsIt) {
  Predict("a");
  const pid_t first = pid();
  Predict("b");
  EXPECT_NE(pid(), first);
  EXPECT_FALSE(Lives(first));
  const pid_t second = pid();
  v1::Assignment training = Prediction("b", "");
  training.mutable_spec()->mutable_training()->add_phases()->set_steps(5);
  training.mutable_spec()->mutable_training()->mutable_checkpoint()->set_every_steps(5);
  EXPECT_EQ(Run(training).outcome(), v1::AttemptEnd::SUCCEEDED);
  EXPECT_FALSE(Lives(second));
}

TEST_F(WarmTrainerTest, ServesOneOwner) {
  const auto predict_for = [&](const std::string& owner) {
    v1::Assignment assignment = Prediction("a", "");
    assignment.set_owner(owner);
    EXPECT_EQ(Run(assignment).outcome(), v1::AttemptEnd::SUCCEEDED);
  };
  predict_for("ann");
  const pid_t first = pid();
  predict_for("bob");
  EXPECT_NE(pid(), first);
  EXPECT_FALSE(Lives(first));
  predict_for("bob");
  EXPECT_EQ(earlier(), 1);
}

TEST_F(WarmTrainerTest, ServesOnePrecision) {
  Predict("a");
  const pid_t first = pid();
  v1::Assignment rounded = Prediction("a", "");
  rounded.mutable_spec()->mutable_prediction()->set_precision(v1::BF16);
  EXPECT_EQ(Run(rounded).outcome(), v1::AttemptEnd::SUCCEEDED);
  EXPECT_NE(pid(), first);
}

TEST_F(WarmTrainerTest, OneThatDiesWhileItWaitsHarmsNobody) {
  for (const char* const how : {"die-warm", "lie-warm"}) {
    Predict("a", how);
    const pid_t first = pid();
    Predict("a");
    EXPECT_NE(pid(), first) << how;
    EXPECT_EQ(earlier(), 0) << how;
    trainers_->Drop();
  }
}

TEST_F(WarmTrainerTest, ACrashInItsSecondAttemptIsThatAttemptsOwn) {
  Predict("a");
  const v1::AttemptEnd end = Run(Prediction("a", "crash-at-3"));
  EXPECT_EQ(end.outcome(), v1::AttemptEnd::CRASHED);
  Predict("a");
  EXPECT_EQ(earlier(), 0);
}

TEST_F(WarmTrainerTest, ItsTimeEnds) {
  Predict("a");
  const pid_t first = pid();
  clock_.Advance(61);
  while (Lives(first)) sched_yield();
  Predict("a");
  EXPECT_EQ(earlier(), 0);
}

TEST_F(WarmTrainerTest, DroppedItIsGoneAndNoneIsKeptWhenNoneIsWanted) {
  Predict("a");
  const pid_t first = pid();
  trainers_->Drop();
  EXPECT_FALSE(Lives(first));
  for (const WarmOptions& none :
       {WarmOptions{.seconds = 0}, WarmOptions{.seconds = 60, .most_bytes = 1 << 20}}) {
    trainers_ = std::make_unique<TrainerPool>(none, clock_);
    Predict("a");
    EXPECT_FALSE(Lives(pid()));
  }
}

}  // namespace
}  // namespace thaw
