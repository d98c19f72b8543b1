// What a program says, seen in what a training does.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/testing/fake_clock.h"
#include "tests/worker/training/toy_job.h"
#include "worker/model/model.h"
#include "worker/model/tensor_view.h"

namespace thaw {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class ProgramRunTest : public ::testing::Test {
 protected:
  internal::Run Job(const std::string& training, double dropout = 0) {
    model_ = MakeToyModel(FreshDirectory("model"), dropout);
    return ToyTraining(model_, MakeToyDataset(FreshDirectory("dataset"), 100, 5), training);
  }

  // The farthest that a number of each tensor of the result is from the base model.
  std::map<std::string, double> Changes(const internal::Run& run) {
    const auto before = LoadModel(model_, std::nullopt),
               after = LoadModel(run.work_dir() + "/result", std::nullopt);
    EXPECT_TRUE(before.ok() && after.ok()) << before.status() << after.status();
    std::map<std::string, double> changes;
    for (const Parameter& parameter : (*after)->parameters().all()) {
      const Parameter* base = (*before)->parameters().Find(parameter.name);
      if (base == nullptr || base->tensor.sizes() != parameter.tensor.sizes()) continue;
      changes[parameter.name] = (parameter.tensor - base->tensor).abs().max().item<double>();
    }
    return changes;
  }

  std::string model_;
};

TEST_F(ProgramRunTest, OverriddenRatesAndAPhasesOwnOptimizer) {
  // Adam's first update is the rate itself, where no decay is added.
  const internal::Run run = Job(R"(
    validation_fraction: 0 max_grad_norm: 0 optimizer { weight_decay: 1 }
    phases { name: "one" selector { everything: true and_not { kind: EMBEDDINGS } and_not { head_only: true } }
             learning_rate: 0.01 steps: 1 optimizer { weight_decay: 0 }
             rate_overrides { selector { any_of { values { kind: NORMS } values { name_pattern: ".*key.*" } } }
                              learning_rate: 0.002 }
             rate_overrides { selector { name_pattern: ".*layer.1.*LayerNorm.weight" } learning_rate: 0.03 } })");
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(run, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  int overridden = 0, last = 0, plain = 0;
  for (const auto& [name, change] : Changes(run)) {
    const bool norm = absl::StrContains(name, "LayerNorm");
    if (absl::StrContains(name, "classifier")) continue;  // drawn anew
    if (absl::StrContains(name, "_embeddings") || absl::StrContains(name, "pooler")) {
      EXPECT_EQ(change, 0) << name;
    } else if (absl::StrContains(name, "layer.1.") && norm && absl::EndsWith(name, "weight")) {
      EXPECT_NEAR(change, 0.03, 3e-4) << name;
      ++last;
    } else if (absl::StrContains(name, "key.bias")) {
      // Softmax does not depend on it: its gradient is rounding alone.
      EXPECT_LE(change, 0.0021) << name;
    } else if (norm || absl::StrContains(name, ".key.")) {
      EXPECT_NEAR(change, 0.002, 2e-5) << name;
      ++overridden;
    } else {
      EXPECT_NEAR(change, 0.01, 1e-4) << name;
      ++plain;
    }
  }
  EXPECT_EQ(last, 2);
  EXPECT_GT(overridden, 6);
  EXPECT_GT(plain, 6);
  // A group tells its highest rate.
  std::map<std::string, double> rates;
  const std::vector<v1::PhaseStart> phases = sink.Phases();
  for (const v1::GroupRate& rate : phases[0].rates()) {
    rates[rate.group()] = rate.learning_rate();
  }
  EXPECT_EQ(rates.at("embeddings"), 0.002) << "its norm alone trains";
  EXPECT_EQ(rates.at("block.0"), 0.01);
  EXPECT_EQ(rates.at("block.1"), 0.03);
  EXPECT_EQ(rates.count("head"), 0u);
}

TEST_F(ProgramRunTest, LossUnitsEndAPhaseWithTheStepThatReachesThem) {
  const internal::Run run = Job(R"(
    validation_fraction: 0 batch { examples_per_step: 16 }
    phases { name: "a" selector { head_only: true } learning_rate: 0.001 loss_units: 130
             schedule { shape: LINEAR } }
    phases { name: "b" selector { everything: true } learning_rate: 0.001 loss_units: 1 })");
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(run, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  // 100 rows are seven steps, the last of four rows; then two of sixteen.
  ASSERT_THAT(sink.Phases(), SizeIs(2));
  EXPECT_EQ(sink.Phases()[0].steps(), 9);
  EXPECT_EQ(sink.Phases()[1].step(), 9);
  EXPECT_EQ(sink.Phases()[1].steps(), 1);
  double units = 0;
  for (const auto& [step, value] : sink.Series("loss_units")) units += step <= 9 ? value : 0;
  EXPECT_EQ(units, 132);
  EXPECT_NEAR(sink.Series("learning_rate").at(9), 0.001 / 9, 1e-12) << "the schedule knows the end";
}

TEST_F(ProgramRunTest, AWallTimeEndsAPhaseAndItsEndIsInTheCheckpoint) {
  const std::string program = R"(
    validation_fraction: 0
    phases { name: "a" selector { head_only: true } learning_rate: 0.001 wall_time { seconds: 3 nanos: 500000000 } }
    phases { name: "b" selector { everything: true } learning_rate: 0.001 steps: 2 })";
  const internal::Run run = Job(program);
  FakeClock clock;
  RecordingSink sink;
  Control control;
  sink.on_point = [&](const v1::MetricPoint&) { clock.AdvanceSeconds(1); };
  ASSERT_EQ(RunAttempt(run, &sink, &control, clock).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  ASSERT_THAT(sink.Phases(), SizeIs(2));
  EXPECT_EQ(sink.Phases()[0].steps(), 0) << "nobody knows beforehand";
  EXPECT_EQ(sink.Phases()[1].step(), 5) << "four seconds lie between five steps";
  EXPECT_EQ(sink.progress.total_steps(), 0);

  // From the checkpoint between the phases a machine that is ten times as slow does the same.
  internal::Run resumed = run;
  resumed.set_work_dir(FreshDirectory("work"));
  ASSERT_EQ(sink.checkpoints[0].step(), 5);
  resumed.set_checkpoint_dir(run.work_dir() + "/" + sink.checkpoints[0].dir());
  RecordingSink slow;
  slow.on_point = [&](const v1::MetricPoint&) { clock.AdvanceSeconds(10); };
  ASSERT_EQ(RunAttempt(resumed, &slow, &control, clock).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  EXPECT_EQ(ResultWeights(resumed), ResultWeights(run));
}

TEST_F(ProgramRunTest, APauseDoesNotCountToAWallTime) {
  const internal::Run run = Job(
      "validation_fraction: 0 phases { name: 'a' selector { head_only: true } learning_rate: 0.001 "
      "wall_time { seconds: 3 nanos: 500000000 } }");
  FakeClock clock;
  RecordingSink sink;
  Control control;
  sink.on_point = [&](const v1::MetricPoint& point) {
    clock.AdvanceSeconds(1);
    if (point.step() == 2) control.RequestPause();
  };
  ASSERT_EQ(RunAttempt(run, &sink, &control, clock).end().outcome(), v1::AttemptEnd::PAUSED);
  clock.AdvanceSeconds(1000);
  internal::Run resumed = run;
  resumed.set_work_dir(FreshDirectory("work"));
  resumed.set_checkpoint_dir(run.work_dir() + "/" + sink.checkpoints.back().dir());
  RecordingSink later;
  Control idle;
  later.on_point = [&](const v1::MetricPoint&) { clock.AdvanceSeconds(1); };
  const internal::Ended ended = RunAttempt(resumed, &later, &idle, clock);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED);
  EXPECT_EQ(ended.end().step(), 5) << "as without the pause";
}

TEST_F(ProgramRunTest, FrozenGroupsDropOutOnlyWhereThatIsAskedFor) {
  const auto first_loss = [&](double dropout, bool frozen_dropout) {
    RecordingSink sink;
    RunAttempt(Job(absl::StrCat("validation_fraction: 0 phases { name: 'a' selector { "
                                "name_pattern: 'classifier.*' } learning_rate: 0.001 steps: 1 "
                                "frozen_dropout: ",
                                frozen_dropout ? "true" : "false", " }"),
                   dropout),
               &sink);
    return sink.Series("loss").at(1);
  };
  EXPECT_NE(first_loss(0.5, true), first_loss(0.5, false));
  EXPECT_EQ(first_loss(0, true), first_loss(0, false));
}

TEST_F(ProgramRunTest, FrozenDropoutLeavesTheStatisticsOfFrozenNorms) {
  const internal::Run run = ToyTraining(
      MakeToyLstm(FreshDirectory("model"), 1), MakeToyDataset(FreshDirectory("dataset"), 60, 5),
      "validation_fraction: 0 phases { name: 'a' selector { name_pattern: '.*rnns.*' } "
      "learning_rate: 0.001 steps: 3 frozen_dropout: true }");
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(run, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  const auto model = *LoadModel(run.work_dir() + "/result", std::nullopt);
  for (const char* layer : {"1.layers.0.0", "1.layers.1.0"}) {
    const auto value = [&](const char* name) {
      return model->parameters().Find(absl::StrCat(layer, name))->tensor;
    };
    EXPECT_TRUE(at::equal(value(".running_mean"), at::zeros_like(value(".running_mean"))));
    EXPECT_TRUE(at::equal(value(".running_var"), at::ones_like(value(".running_var"))));
    EXPECT_EQ(value(".num_batches_tracked").item<int64_t>(), 0);
  }
}

TEST_F(ProgramRunTest, WhatALaterPhaseCannotChooseFailsBeforeTheFirstStep) {
  struct Case {
    std::string phase;
    std::string field;
    std::string says;
  };
  const std::vector<Case> cases = {
      {"selector { name_pattern: 'clasifier.*' }", "spec.training.phases[1].selector",
       "the nearest are \"classifier."},
      {"selector { kind: ADDED_PARTS }", "spec.training.phases[1].selector",
       "no parameters of this kind, but BIASES, NORMS, EMBEDDINGS, ATTENTION, FEED_FORWARD"},
      {"selector { head_only: true } rate_overrides { selector { kind: NORMS } learning_rate: 0.1 "
       "}",
       "spec.training.phases[1].rate_overrides[0].selector",
       "chooses nothing that the phase trains"}};
  for (const Case& one : cases) {
    RecordingSink sink;
    const internal::Ended ended =
        RunAttempt(Job("validation_fraction: 0 phases { name: 'a' selector { head_only: true } "
                       "learning_rate: 0.001 steps: 3 } phases { name: 'b' learning_rate: 0.001 "
                       "steps: 3 " +
                       one.phase + " }"),
                   &sink);
    ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::FAILED) << one.phase;
    EXPECT_EQ(ended.end().failure().blame(), v1::Failure::USER);
    EXPECT_THAT(ended.end().failure().message(), AllOf(HasSubstr(one.field), HasSubstr(one.says)));
    EXPECT_EQ(ended.end().step(), 0);
  }
}

TEST_F(ProgramRunTest, EventsTellWhatIsNewAndHowFarEachGroupMoved) {
  const internal::Run run = Job(R"(
    validation_fraction: 0
    phases { name: "a" selector { name_pattern: "classifier.*" } learning_rate: 0.001 steps: 2 }
    phases { name: "b" selector { any_of { values { kind: NORMS and_not { last_blocks: 3 } }
                                           values { name_pattern: "classifier.*" } } }
             learning_rate: 0.001 steps: 2 }
    phases { name: "c" selector { name_pattern: "classifier.weight" } learning_rate: 0.001 steps: 1 })");
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(run, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  const auto phases = sink.Phases();
  ASSERT_THAT(phases, SizeIs(3));
  EXPECT_THAT(phases[0].newly_trainable_names(),
              ElementsAre("classifier.weight", "classifier.bias"));
  EXPECT_THAT(phases[1].newly_trainable_names(),
              ElementsAre("bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.bias"));
  EXPECT_THAT(phases[2].newly_trainable_names(), SizeIs(0));
  const auto whole = sink.Series("update_norm"), head = sink.Series("update_norm", "head"),
             low = sink.Series("update_norm", "embeddings");
  ASSERT_THAT(whole, SizeIs(5));
  ASSERT_THAT(low, SizeIs(2));
  for (const int64_t step : {3, 4}) {
    EXPECT_NEAR(whole.at(step), std::hypot(head.at(step), low.at(step)), 1e-12);
    EXPECT_GT(low.at(step), 0);
  }
  EXPECT_EQ(whole.at(5), head.at(5));
}

}  // namespace
}  // namespace thaw
