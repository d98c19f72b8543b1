// Trainings that somebody steers: what is done, and that a replay and a resume give the same bits.
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/testing/fake_clock.h"
#include "tests/worker/training/toy_job.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// With a fifth of the rows kept back, a pass takes 11 steps.
constexpr char kProgram[] = R"(
  validation_fraction: 0.2
  phases { name: "head" selector { head_only: true } learning_rate: 0.01
           schedule { shape: LINEAR } steps: 12 }
  phases { name: "last" selector { last_blocks: 1 } learning_rate: 0.005 epochs: 1
           schedule { shape: COSINE warmup_steps: 2 } restore_best: true }
  phases { name: "all" selector { everything: true } learning_rate: 0.003
           plateau { patience: 3 max_epochs: 1 } }
  evaluation { every_epochs: 0.4 metric: LOSS })";

// The same by the clock: a second a step.
constexpr char kByClock[] = R"(
  validation_fraction: 0.2
  phases { name: "head" selector { head_only: true } learning_rate: 0.01
           wall_time { seconds: 5 nanos: 500000000 } }
  phases { name: "all" selector { everything: true } learning_rate: 0.003 steps: 30 }
  evaluation { every_epochs: 0.4 metric: LOSS })";

// Asked for when so many steps are done.
struct Asked {
  int64_t step;
  std::string action;
};

// Every action, two of them at one step.
const std::vector<Asked>& EveryAction() {
  static const auto* const asked = new std::vector<Asked>{
      {3, "scale_rate: 0.5"},  {5, "extend_steps: 4"},   {8, "next_phase: true"},
      {8, "scale_rate: 3"},    {11, "checkpoint: true"}, {13, "extend_epochs: 0.5"},
      {26, "extend_steps: 2"}, {30, "stop: true"}};
  return *asked;
}

v1::SteeringRecord Record(int number, const std::string& action) {
  v1::SteeringRecord record;
  record.set_number(number);
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(action, record.mutable_action()));
  return record;
}

std::vector<v1::SteeringRecord> Applied(const RecordingSink& sink) {
  std::vector<v1::SteeringRecord> records;
  for (const v1::Event& event : sink.events) {
    if (event.has_steering_applied()) records.push_back(event.steering_applied());
  }
  return records;
}

std::vector<std::string> RefusalsIn(const RecordingSink& sink) {
  std::vector<std::string> refusals;
  for (const v1::Warning& warning : sink.Warnings()) {
    if (warning.reason() == "PHASE_NOT_EXTENDED") refusals.push_back(warning.message());
  }
  return refusals;
}

bool SameSteps(const internal::Receipt& a, const internal::Receipt& b) {
  internal::Receipt left, right;
  *left.mutable_steered() = a.steered();
  *right.mutable_steered() = b.steered();
  return google::protobuf::util::MessageDifferencer::Equals(left, right);
}

class TrainingSteeringTest : public ::testing::Test {
 protected:
  TrainingSteeringTest()
      : model_(MakeToyModel(FreshDirectory("model"), 0.1)),
        dataset_(MakeToyDataset(FreshDirectory("dataset"), 100, 5)) {}

  internal::Run Job(const std::string& training, int64_t checkpoint_every = 1'000'000) {
    return ToyTraining(
        model_, dataset_,
        absl::StrCat(training, " checkpoint { every_steps: ", checkpoint_every, " }"));
  }

  // Runs it at a second a step and asks for this.
  internal::Ended Run(const internal::Run& run, const std::vector<Asked>& asked,
                      RecordingSink* sink) {
    FakeClock clock;
    Control control;
    sink->on_point = [&](const v1::MetricPoint& point) {
      clock.AdvanceSeconds(1);
      for (size_t i = 0; i < asked.size(); ++i) {
        if (asked[i].step == point.step()) {
          control.Steer(Record(static_cast<int>(i) + 1, asked[i].action));
          control.Steer(Record(static_cast<int>(i) + 1, asked[i].action));  // harmless
        }
      }
    };
    const internal::Ended ended = RunAttempt(run, sink, &control, clock);
    EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
    return ended;
  }

  const std::string model_;
  const std::string dataset_;
};

TEST_F(TrainingSteeringTest, EveryActionIsDoneAndTold) {
  const internal::Run run = Job(kProgram);
  RecordingSink sink;
  const internal::Ended ended = Run(run, EveryAction(), &sink);
  EXPECT_EQ(ended.end().step(), 30);
  const auto applied = Applied(sink);
  ASSERT_THAT(applied, SizeIs(EveryAction().size()));
  for (size_t i = 0; i < applied.size(); ++i) {
    EXPECT_EQ(applied[i].number(), i + 1);
    EXPECT_EQ(applied[i].step(), EveryAction()[i].step);
    EXPECT_TRUE(applied[i].applied());
  }
  EXPECT_THAT(RefusalsIn(sink), IsEmpty());
  // The first phase ends after 8 of 12 + 4 steps, the second one takes 11 and 6 more.
  std::vector<int64_t> begins;
  for (const v1::PhaseStart& phase : sink.Phases()) begins.push_back(phase.step());
  EXPECT_THAT(begins, ElementsAre(0, 8, 25));
  const auto rates = sink.Series("learning_rate");
  EXPECT_FLOAT_EQ(rates.at(3), 0.01 * (1 - 2.0 / 12));
  EXPECT_FLOAT_EQ(rates.at(4), 0.005 * (1 - 3.0 / 12));
  EXPECT_FLOAT_EQ(rates.at(6), 0.005 * (1 - 5.0 / 16));
  EXPECT_FLOAT_EQ(rates.at(26), 0.003 * 1.5);
  std::vector<int64_t> checkpoints;
  for (const auto& checkpoint : sink.checkpoints) checkpoints.push_back(checkpoint.step());
  EXPECT_THAT(checkpoints, ElementsAre(8, 11, 25));
  const internal::Receipt receipt = ReceiptOf(run);
  EXPECT_EQ(receipt.steered_size(), 7) << "all but the checkpoint: " << receipt.ShortDebugString();
  EXPECT_EQ(receipt.ran_out_of_time_at(), 0);
}

TEST_F(TrainingSteeringTest, WhatCannotBeMadeLongerGoesOnWithAWarning) {
  const internal::Run run = Job(kByClock);
  RecordingSink sink, plain;
  Run(run, {{2, "extend_steps: 4"}}, &sink);
  EXPECT_THAT(RefusalsIn(sink), SizeIs(1));
  EXPECT_THAT(Applied(sink), SizeIs(1));
  const internal::Run plain_run = Job(kByClock);
  Run(plain_run, {}, &plain);
  EXPECT_EQ(ResultWeights(run), ResultWeights(plain_run));
  EXPECT_TRUE(SameSteps(ReceiptOf(run), ReceiptOf(plain_run)));
}

TEST_F(TrainingSteeringTest, AskedBeforeTheAttemptItIsDoneAfterTheFirstStep) {
  internal::Run run = Job(kProgram);
  *run.mutable_assignment()->add_steerings() = Record(1, "next_phase: true");
  *run.mutable_assignment()->add_steerings() = Record(2, "stop: true");
  RecordingSink sink;
  EXPECT_EQ(Run(run, {}, &sink).end().step(), 1);
  EXPECT_THAT(Applied(sink), SizeIs(2));
  EXPECT_THAT(sink.Phases(), SizeIs(1));
}

TEST_F(TrainingSteeringTest, OneThatComesTooEarlyWaitsForThoseBeforeIt) {
  const internal::Run run = Job(kProgram);
  FakeClock clock;
  Control control;
  RecordingSink sink;
  sink.on_point = [&](const v1::MetricPoint& point) {
    if (point.step() == 2) control.Steer(Record(2, "stop: true"));
    if (point.step() == 4) control.Steer(Record(1, "scale_rate: 2"));
  };
  const internal::Ended ended = RunAttempt(run, &sink, &control, clock);
  EXPECT_EQ(ended.end().step(), 4);
  const auto applied = Applied(sink);
  ASSERT_THAT(applied, SizeIs(2));
  EXPECT_EQ(applied[0].number(), 1);
  EXPECT_EQ(applied[1].number(), 2);
}

// What the receipt says is done again: the same bits, whatever the clock does.
TEST_F(TrainingSteeringTest, AReplayGivesTheSameBits) {
  struct Case {
    const char* program;
    std::vector<Asked> asked;
    int64_t runtime_left;  // seconds; 0: no limit
  };
  const std::vector<Case> cases = {
      {kProgram, EveryAction(), 0},
      {kProgram, {{10, "stop: true"}}, 0},
      {kByClock, {}, 0},
      {kByClock, {{9, "scale_rate: 0.25"}, {11, "next_phase: true"}}, 0},
      // Ends by max_runtime after a step, and where an evaluation is due.
      {kProgram, {}, 7},
      {kProgram, {}, 8},
      {kProgram, {}, 12},
      {kProgram, {}, 13},
      {kByClock, {}, 6}};
  for (const Case& test : cases) {
    internal::Run run = Job(test.program);
    if (test.runtime_left > 0) {
      run.mutable_assignment()->mutable_runtime_left()->set_seconds(test.runtime_left);
    }
    RecordingSink first, second;
    const internal::Ended first_end = Run(run, test.asked, &first);
    const internal::Receipt receipt = ReceiptOf(run);
    ASSERT_GT(receipt.steered_size(), 0);
    internal::Run again = Job(test.program);
    v1::Training* training = again.mutable_assignment()->mutable_spec()->mutable_training();
    *training->mutable_replay() = receipt.steered();
    for (v1::Phase& phase : *training->mutable_phases()) {
      if (phase.has_wall_time()) phase.mutable_wall_time()->set_seconds(1);
    }
    const internal::Ended second_end = Run(again, {}, &second);
    const internal::Receipt repeated = ReceiptOf(again);
    const std::string name = absl::StrCat(receipt.ShortDebugString().substr(0, 60), ", ",
                                          test.asked.size(), " asked, runtime ", test.runtime_left);
    EXPECT_EQ(ResultWeights(again), ResultWeights(run)) << name;
    EXPECT_EQ(repeated.history_sha256(), receipt.history_sha256()) << name;
    EXPECT_TRUE(SameSteps(repeated, receipt)) << name << repeated.ShortDebugString();
    EXPECT_EQ(second_end.end().step(), first_end.end().step()) << name;
    EXPECT_EQ(receipt.ran_out_of_time_at(), test.runtime_left > 0 ? first_end.end().step() : 0);
    for (const v1::SteeringRecord& record : Applied(second)) EXPECT_EQ(record.number(), 0);
    EXPECT_THAT(Applied(second), SizeIs(receipt.steered_size()));
  }
}

// A steered run that is killed anywhere: the next attempt does the same after the same steps.
TEST_F(TrainingSteeringTest, AResumeGivesTheSameBits) {
  const internal::Run straight_run = Job(kProgram), dense_run = Job(kProgram, 1);
  RecordingSink straight, dense;
  Run(straight_run, EveryAction(), &straight);
  Run(dense_run, EveryAction(), &dense);
  const std::string weights = ResultWeights(straight_run);
  const internal::Receipt receipt = ReceiptOf(straight_run);
  EXPECT_EQ(ResultWeights(dense_run), weights);
  const unsigned seed = std::random_device()();
  std::mt19937 random(seed);
  std::vector<internal::CheckpointReady> checkpoints = dense.checkpoints;
  ASSERT_GT(checkpoints.size(), 30u);
  // Killed before anything was saved, too.
  checkpoints.emplace_back();
  std::shuffle(checkpoints.begin(), checkpoints.end() - 1, random);
  std::swap(checkpoints.front(), checkpoints.back());
  checkpoints.resize(12);
  int mismatches = 0;
  for (const internal::CheckpointReady& checkpoint : checkpoints) {
    internal::Run run = Job(kProgram);
    if (!checkpoint.dir().empty()) {
      run.set_checkpoint_dir(dense_run.work_dir() + "/" + checkpoint.dir());
    }
    for (const v1::SteeringRecord& record : Applied(dense)) {
      *run.mutable_assignment()->add_steerings() = record;
    }
    RecordingSink resumed;
    const internal::Ended ended = Run(run, {}, &resumed);
    std::map<int64_t, double> expected = straight.Series("loss");
    expected.erase(expected.begin(), expected.upper_bound(checkpoint.step()));
    const internal::Receipt made = ReceiptOf(run);
    const bool same = ResultWeights(run) == weights && resumed.Series("loss") == expected &&
                      made.history_sha256() == receipt.history_sha256() &&
                      SameSteps(made, receipt) && ended.end().step() == 30;
    EXPECT_TRUE(same) << "from " << checkpoint.ShortDebugString() << ", seed " << seed;
    EXPECT_THAT(Applied(resumed), IsEmpty()) << "it was told of before";
    mismatches += !same;
  }
  std::cout << "steered resume: seed " << seed << ", points tried " << checkpoints.size()
            << ", mismatches " << mismatches << std::endl;
}

// The attempt before was lost between its checkpoint and its report.
TEST_F(TrainingSteeringTest, WhatACheckpointHoldsButNobodyHeardOfIsTold) {
  const internal::Run dense_run = Job(kProgram, 1);
  RecordingSink dense;
  Run(dense_run, EveryAction(), &dense);
  const std::vector<v1::SteeringRecord> applied = Applied(dense);
  internal::Run run = Job(kProgram);
  run.set_checkpoint_dir(dense_run.work_dir() + "/" + dense.checkpoints.back().dir());
  for (v1::SteeringRecord record : applied) {
    record.set_applied(false);
    record.clear_step();
    *run.mutable_assignment()->add_steerings() = record;
  }
  RecordingSink resumed;
  Run(run, {}, &resumed);
  const std::vector<v1::SteeringRecord> told = Applied(resumed);
  ASSERT_EQ(told.size(), applied.size());
  for (size_t i = 0; i < told.size(); ++i) {
    EXPECT_EQ(told[i].number(), applied[i].number());
    EXPECT_TRUE(told[i].applied());
    // A checkpoint is not noted: any step does.
    if (told[i].action().has_checkpoint()) continue;
    EXPECT_EQ(told[i].step(), applied[i].step()) << told[i].ShortDebugString();
  }
}

// A replay that is killed goes on as well.
TEST_F(TrainingSteeringTest, AResumedReplayGivesTheSameBits) {
  const internal::Run first_run = Job(kByClock);
  RecordingSink first, dense;
  Run(first_run, {{8, "scale_rate: 2"}, {20, "next_phase: true"}}, &first);
  const internal::Receipt receipt = ReceiptOf(first_run);
  const auto replayed = [&](int64_t every) {
    internal::Run run = Job(kByClock, every);
    *run.mutable_assignment()->mutable_spec()->mutable_training()->mutable_replay() =
        receipt.steered();
    return run;
  };
  const internal::Run dense_run = replayed(3);
  Run(dense_run, {}, &dense);
  ASSERT_GT(dense.checkpoints.size(), 5u);
  for (const internal::CheckpointReady& checkpoint : dense.checkpoints) {
    internal::Run run = replayed(1'000'000);
    run.set_checkpoint_dir(dense_run.work_dir() + "/" + checkpoint.dir());
    RecordingSink resumed;
    Run(run, {}, &resumed);
    EXPECT_EQ(ResultWeights(run), ResultWeights(first_run)) << checkpoint.ShortDebugString();
    EXPECT_EQ(ReceiptOf(run).history_sha256(), receipt.history_sha256());
  }
}

}  // namespace
}  // namespace thaw
