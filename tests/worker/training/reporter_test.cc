#include "worker/training/reporter.h"

#include <gtest/gtest.h>

#include "tests/testing/fake_clock.h"
#include "tests/worker/training/toy_job.h"

namespace thaw {
namespace {

StepReport Step(int64_t step, double loss_sum) {
  return {.step = step,
          .phase = 1,
          .loss_sum = loss_sum,
          .loss_units = 4,
          .learning_rate = 0.1,
          .gradient_norm = 1,
          .tokens = 10 * step,
          .step_tokens = 10,
          .seconds = 0.01};
}

TEST(Reporter, SamplesPointsAndKeepsExactSums) {
  FakeClock clock;
  RecordingSink sink;
  Reporter reporter(&sink, &clock, 0.1);
  double loss_sum = 0;
  for (int64_t step = 1; step <= 1000; ++step) {
    clock.AdvanceSeconds(0.01);
    reporter.StepDone(Step(step, static_cast<double>(step)));
    loss_sum += static_cast<double>(step);
  }
  reporter.FlushPoint();
  reporter.FlushPoint();
  // Ten seconds at ten points a second, the first at once and the last flushed.
  EXPECT_LE(sink.events.size(), 102u);
  EXPECT_GE(sink.events.size(), 90u);
  double sent_sum = 0, sent_units = 0;
  for (const auto& [step, value] : sink.Series("loss_sum")) sent_sum += value;
  for (const auto& [step, value] : sink.Series("loss_units")) sent_units += value;
  EXPECT_EQ(sent_sum, loss_sum);
  EXPECT_EQ(sent_units, 4000);
  EXPECT_EQ(sink.Series("loss").rbegin()->first, 1000);
  EXPECT_EQ(sink.Series("loss").rbegin()->second, 250);
  EXPECT_NEAR(sink.Series("tokens_per_second").rbegin()->second, 1000, 1);
  EXPECT_EQ(reporter.pending().loss_units, 0);
}

TEST(Reporter, EveryTenthPointHasTheNormsOfGroups) {
  FakeClock clock;
  RecordingSink sink;
  Reporter reporter(&sink, &clock, 0.1);
  for (int64_t step = 1; step <= 1000; ++step) {
    clock.AdvanceSeconds(0.01);
    StepReport report = Step(step, 1);
    report.group_norms = {{"block.0", 0.25, 0.5}, {"head", static_cast<double>(step), -1.0}};
    reporter.StepDone(report);
  }
  const std::map<int64_t, double> norms = sink.Series("grad_norm", "head");
  EXPECT_LE(norms.size(), 11u);
  EXPECT_GE(norms.size(), 9u);
  EXPECT_EQ(norms.begin()->first, 1);
  for (const auto& [step, norm] : norms) EXPECT_EQ(norm, static_cast<double>(step));
  EXPECT_EQ(sink.Series("grad_norm", "block.0").size(), norms.size());
  EXPECT_EQ(sink.Series("update_norm", "block.0").size(), norms.size());
  EXPECT_EQ(sink.Series("update_norm", "block.0").begin()->second, 0.5);
  EXPECT_EQ(sink.Series("update_norm").size(), sink.Series("grad_norm").size());
  EXPECT_GE(sink.Series("grad_norm").size(), 90u) << "the whole model's is in every point";
}

TEST(Reporter, TheTopmostOfManyGroupsAreTold) {
  FakeClock clock;
  RecordingSink sink;
  Reporter reporter(&sink, &clock, 0.1);
  StepReport report = Step(1, 1);
  for (int group = 0; group < 300; ++group) {
    report.group_norms.push_back({"block." + std::to_string(group), 1, 2});
  }
  reporter.StepDone(report);
  ASSERT_EQ(sink.events.size(), 1u);
  // A worker takes 256 values in a point.
  EXPECT_LT(sink.events[0].metric_points().points(0).values_size(), 144);
  EXPECT_EQ(sink.Series("grad_norm", "block.299").size(), 1u);
  EXPECT_TRUE(sink.Series("grad_norm", "block.0").empty());
}

TEST(Reporter, GoesOnWithPendingSums) {
  FakeClock clock;
  RecordingSink sink;
  Reporter reporter(&sink, &clock, 0.1);
  reporter.set_pending({.loss_sum = 7, .loss_units = 3});
  reporter.StepDone(Step(8, 2));
  EXPECT_EQ(sink.Series("loss_sum").at(8), 9);
  EXPECT_EQ(sink.Series("loss_units").at(8), 7);
  EXPECT_EQ(sink.Series("loss").at(8), 0.5);
}

TEST(Reporter, BeatsTwiceASecondAtMost) {
  FakeClock clock;
  RecordingSink sink;
  Reporter reporter(&sink, &clock, 0.1);
  for (int i = 0; i < 1000; ++i) {
    reporter.Beat();
    clock.AdvanceSeconds(0.01);
  }
  EXPECT_LE(sink.beats, 21);
  EXPECT_GE(sink.beats, 19);
  EXPECT_GT(sink.progress.memory_bytes(), 1 << 20);
}

TEST(Reporter, EstimatesTheEnd) {
  FakeClock clock;
  RecordingSink sink;
  Reporter reporter(&sink, &clock, 0.1);
  reporter.progress().set_total_steps(100);
  for (int64_t step = 51; step <= 60; ++step) {
    clock.AdvanceSeconds(2);
    reporter.StepDone(Step(step, 1));
  }
  EXPECT_NEAR(reporter.progress().eta_seconds(), 80, 1e-6);
  EXPECT_EQ(
      sink.events.front().time().seconds() * 1'000'000 + sink.events.front().time().nanos() / 1000,
      clock.WallMicros() - 18'000'000);
}

TEST(Reporter, AnEvaluationComesAfterTheStepThatItIsOf) {
  FakeClock clock;
  RecordingSink sink;
  Reporter reporter(&sink, &clock, 10);
  reporter.StepDone(Step(1, 1));
  reporter.StepDone(Step(2, 1));
  v1::EvaluationEnd evaluation;
  evaluation.set_step(2);
  (*evaluation.mutable_values())["accuracy"] = 0.5;
  reporter.EvaluationDone(evaluation);
  ASSERT_EQ(sink.events.size(), 4u);
  EXPECT_EQ(sink.events[1].metric_points().points(0).step(), 2);
  EXPECT_EQ(sink.events[2].metric_points().points(0).values(0).name(), "eval_accuracy");
  EXPECT_TRUE(sink.events[3].has_evaluation_end());
}

}  // namespace
}  // namespace thaw
