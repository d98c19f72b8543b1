#include "server/jobs/steering_table.h"

#include <google/protobuf/text_format.h>

#include "absl/strings/str_cat.h"
#include "common/base/id.h"
#include "common/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/store_fixture.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class SteeringTable : public ::testing::Test {
 protected:
  SteeringTable() {
    fixture_.AddArtifacts();
    job_ = fixture_.Submit();
  }

  absl::StatusOr<v1::Job> Steer(const std::string& action, const std::string& request_id,
                                const std::string& owner = "ann") {
    v1::SteerJobRequest request;
    request.set_id(job_);
    request.set_request_id(request_id);
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(action, request.mutable_action()));
    return fixture_.store().Write([&](Transaction& t) { return SteerJob(t, owner, request); });
  }
  v1::Assignment Begin() {
    attempt_ = RandomId();
    auto assignment = fixture_.store().Write(
        [&](Transaction& t) { return BeginAttempt(t, job_, attempt_, "w", v1::Resources::CPU); });
    EXPECT_TRUE(assignment.ok()) << assignment.status();
    return assignment.ok() ? *assignment : v1::Assignment();
  }
  // The live attempt tells that it has applied this; numbers of its events go on from `sequence`.
  void TellApplied(int64_t sequence, int number, int64_t step) {
    v1::AttemptReport report;
    report.set_attempt_id(attempt_);
    report.set_state(v1::AttemptReport::RUNNING);
    v1::WorkerEvent& event = *report.add_events();
    event.set_sequence(sequence);
    v1::SteeringRecord& told = *event.mutable_event()->mutable_steering_applied();
    told.set_number(number);
    told.set_step(step);
    told.mutable_action()->set_stop(true);  // not for the worker to say, unless it is a replay
    const auto reported = fixture_.store().Write(
        [&](Transaction& t) { return ApplyReport(t, "w", std::string(32, '0'), 1, report); });
    EXPECT_TRUE(reported.ok()) << reported.status();
  }
  void Lose() {
    EXPECT_TRUE(
        fixture_.store().Write([&](Transaction& t) { return LoseAttempt(t, attempt_, ""); }).ok());
  }
  std::vector<v1::SteeringRecord> Told() {
    std::vector<v1::SteeringRecord> told;
    for (const v1::Event& event : fixture_.Events(job_)) {
      if (event.has_steering_applied()) told.push_back(event.steering_applied());
    }
    return told;
  }

  StoreFixture fixture_;
  std::string job_, attempt_;
};

TEST_F(SteeringTable, IsNumberedKeptAndPassedOn) {
  ASSERT_TRUE(Steer("scale_rate: 0.5", "a").ok());
  const auto job = Steer("next_phase: true", "b");
  ASSERT_TRUE(job.ok()) << job.status();
  ASSERT_EQ(job->steerings_size(), 2);
  EXPECT_EQ(job->steerings(1).number(), 2);
  EXPECT_TRUE(job->steerings(1).action().next_phase());
  EXPECT_GT(job->steerings(1).ask_time().seconds(), 0);
  EXPECT_FALSE(job->steerings(1).applied());
  const std::vector<v1::Event> events = fixture_.Events(job_);
  EXPECT_EQ(events.back().steering_asked().number(), 2);
  fixture_.Reopen();
  EXPECT_EQ(fixture_.Get(job_).steerings_size(), 2);
  EXPECT_EQ(Begin().steerings_size(), 2);
  fixture_.CheckHistory(job_);
}

TEST_F(SteeringTable, ARequestIdAsksOnceForTheSameJob) {
  ASSERT_TRUE(Steer("extend_steps: 5", "a").ok());
  const auto again = Steer("extend_steps: 5", "a");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->steerings_size(), 1);
  EXPECT_EQ(ReasonOf(Steer("extend_steps: 6", "a").status()), "REQUEST_ID_REUSED");
  job_ = fixture_.Submit();
  const auto other = Steer("extend_steps: 6", "a");
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ(other->steerings(0).number(), 1);
}

TEST_F(SteeringTable, WhatIsToldOfAsAppliedIsSoOnce) {
  ASSERT_TRUE(Steer("scale_rate: 0.5", "a").ok());
  ASSERT_TRUE(Steer("scale_rate: 0.25", "b").ok());
  Begin();
  TellApplied(1, 1, 12);
  TellApplied(2, 1, 12);  // once more, by a later event
  TellApplied(3, 9, 12);  // never asked for
  ASSERT_THAT(Told(), SizeIs(1));
  EXPECT_EQ(Told()[0].step(), 12);
  EXPECT_EQ(Told()[0].action().scale_rate(), 0.5) << "what was asked for, not what was told";
  EXPECT_TRUE(fixture_.Get(job_).steerings(0).applied());
  EXPECT_FALSE(fixture_.Get(job_).steerings(1).applied());
  // The next attempt hears of both, and does the first one again without another event.
  Lose();
  fixture_.clock().AdvanceSeconds(600);
  const v1::Assignment next = Begin();
  ASSERT_EQ(next.steerings_size(), 2);
  EXPECT_TRUE(next.steerings(0).applied());
  EXPECT_EQ(next.steerings(0).step(), 12);
  EXPECT_FALSE(next.steerings(1).applied());
  TellApplied(1, 1, 12);
  TellApplied(2, 2, 15);
  ASSERT_THAT(Told(), SizeIs(2));
  EXPECT_EQ(Told()[1].number(), 2);
  fixture_.CheckHistory(job_);
}

TEST_F(SteeringTable, AReplayIsToldOfWithoutANumber) {
  Begin();
  TellApplied(1, 0, 7);
  ASSERT_THAT(Told(), SizeIs(1));
  EXPECT_TRUE(Told()[0].action().stop());
  EXPECT_EQ(fixture_.Get(job_).steerings_size(), 0);
}

// What a live attempt has still to do is in the view that the dispatcher gets.
TEST_F(SteeringTable, ViewsCarryWhatIsNotApplied) {
  std::vector<JobView> seen;
  const Subscription subscription =
      fixture_.store().ObserveJobs([&](const std::vector<JobView>& views) { seen = views; });
  ASSERT_TRUE(Steer("checkpoint: true", "a").ok());
  EXPECT_THAT(seen.back().steerings, SizeIs(0)) << "nobody could do it";
  Begin();
  EXPECT_THAT(seen.back().steerings, SizeIs(1));
  ASSERT_TRUE(Steer("scale_rate: 2", "b").ok());
  EXPECT_THAT(seen.back().steerings, SizeIs(2));
  TellApplied(1, 1, 3);
  ASSERT_THAT(seen.back().steerings, SizeIs(1));
  EXPECT_EQ(seen.back().steerings[0].number(), 2);
  const auto unfinished = fixture_.store().Read([](Reader& r) { return UnfinishedJobs(r); });
  ASSERT_TRUE(unfinished.ok());
  EXPECT_THAT((*unfinished)[0].steerings, SizeIs(1));
}

TEST_F(SteeringTable, Refusals) {
  EXPECT_TRUE(absl::IsNotFound(Steer("checkpoint: true", "a", "bob").status()));
  const auto stop = Steer("stop: true", "a");
  EXPECT_EQ(ReasonOf(stop.status()), "NOT_BEGUN");
  EXPECT_THAT(std::string(stop.status().message()), HasSubstr("cancel it instead"));
  for (int i = 1; i <= 1000; ++i) ASSERT_TRUE(Steer("checkpoint: true", absl::StrCat(i)).ok());
  EXPECT_EQ(ReasonOf(Steer("checkpoint: true", "more").status()), "STEERED_TOO_OFTEN");
  EXPECT_TRUE(Steer("checkpoint: true", "7").ok()) << "it was asked for before";
  ASSERT_TRUE(fixture_.store().Write([&](Transaction& t) { return CancelJob(t, "", job_); }).ok());
  EXPECT_EQ(ReasonOf(Steer("checkpoint: true", "late").status()), "JOB_ENDED");
  EXPECT_TRUE(Steer("checkpoint: true", "7").ok());
  fixture_.CheckHistory(job_);

  NewJob prediction = StoreFixture::Submission();
  for (v1::JobSpec* spec : {&prediction.spec, &prediction.resolved_spec}) {
    spec->Clear();
    spec->mutable_prediction()->set_model("model-1");
    spec->mutable_prediction()->set_dataset("dataset-1");
  }
  job_ = fixture_.Submit(prediction);
  EXPECT_EQ(ReasonOf(Steer("checkpoint: true", "a").status()), "NOT_A_TRAINING");
}

TEST_F(SteeringTable, AStopIsTakenOnceTheJobHasBegun) {
  Begin();
  EXPECT_EQ(ReasonOf(Steer("stop: true", "a").status()), "NOT_BEGUN");
  v1::AttemptReport report;
  report.set_attempt_id(attempt_);
  report.set_state(v1::AttemptReport::RUNNING);
  ASSERT_TRUE(fixture_.store()
                  .Write([&](Transaction& t) {
                    return ApplyReport(t, "w", std::string(32, '0'), 1, report);
                  })
                  .ok());
  EXPECT_TRUE(Steer("stop: true", "a").ok());
  // Waiting again after a loss, it is kept.
  Lose();
  EXPECT_TRUE(Steer("stop: true", "b").ok());
}

}  // namespace
}  // namespace thaw
