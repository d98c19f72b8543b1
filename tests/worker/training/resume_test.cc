// Killed anywhere and resumed, a training ends with the same bits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <random>
#include <set>

#include "tests/testing/fake_clock.h"
#include "tests/worker/training/toy_job.h"

namespace thaw {
namespace {

// Every kind of phase change: kept and reset moments, a return to the best, groups frozen again.
constexpr char kProgram[] = R"(
  validation_fraction: 0.2
  phases { name: "head" selector { head_only: true } learning_rate: 0.01 epochs: 1 }
  phases { name: "top" selector { last_blocks: 1 } learning_rate: 0.005 learning_rate_decay: 2.6
           schedule { shape: SLANTED_TRIANGULAR } epochs: 1.5 }
  phases { name: "biases" selector { name_pattern: ".*bias" exclude_patterns: "classifier.*" }
           learning_rate: 0.01 steps: 5 restore_best: true optimizer_state: RESET }
  phases { name: "all" selector { everything: true } learning_rate: 0.003
           plateau { patience: 2 max_epochs: 4 } }
  evaluation { every_epochs: 0.5 metric: LOSS }
)";

// Everything that a program can say.
constexpr char kRichProgram[] = R"(
  validation_fraction: 0.2
  phases { name: "head" selector { head_only: true } learning_rate: 0.01 loss_units: 130
           schedule { shape: ONE_CYCLE } optimizer { beta1: 0.7 beta2: 0.99 weight_decay: 0.1 } }
  phases { name: "biases and norms"
           selector { any_of { values { kind: BIASES } values { kind: NORMS } }
                      and_not { head_only: true } exclude_patterns: ".*key.*" }
           learning_rate: 0.01 learning_rate_decay: 2.6
           rate_overrides { selector { kind: NORMS } learning_rate: 0.002 }
           schedule { shape: LINEAR warmup_fraction: 0.3 } epochs: 1.5 frozen_dropout: true }
  phases { name: "attention" selector { kind: ATTENTION } learning_rate: 0.003
           wall_time { seconds: 5 nanos: 500000000 } restore_best: true optimizer_state: RESET }
  phases { name: "all" selector { everything: true } learning_rate: 0.003
           plateau { patience: 1 max_epochs: 3 metric: ACCURACY } }
  evaluation { every_epochs: 0.5 metric: LOSS }
)";

// One curve over phases that end in every way whose steps are known.
constexpr char kOneSchedule[] = R"(
  validation_fraction: 0.2 schedule { shape: COSINE warmup_fraction: 0.2 }
  phases { name: "head" selector { head_only: true } learning_rate: 0.01 steps: 3 }
  phases { name: "embeddings" selector { kind: EMBEDDINGS } learning_rate: 0.01 loss_units: 100 }
  phases { name: "feed-forward" selector { kind: FEED_FORWARD and_not { last_blocks: 1 } }
           learning_rate: 0.01 epochs: 0.5 }
  phases { name: "all" selector { everything: true } learning_rate: 0.003 loss_units: 100 }
)";

// Runs it at a second a step.
internal::Ended RunByClock(const internal::Run& run, RecordingSink* sink) {
  FakeClock clock;
  Control control;
  sink->on_point = [&](const v1::MetricPoint&) { clock.AdvanceSeconds(1); };
  return RunAttempt(run, sink, &control, clock);
}

class ResumeTest : public ::testing::Test {
 protected:
  ResumeTest()
      : model_(MakeToyModel(FreshDirectory("model"), 0.1)),
        dataset_(MakeToyDataset(FreshDirectory("dataset"), 100, 5)) {}

  internal::Run Job(int64_t checkpoint_every, const char* program = kProgram) {
    internal::Run run = ToyTraining(model_, dataset_, program);
    run.mutable_assignment()
        ->mutable_spec()
        ->mutable_training()
        ->mutable_checkpoint()
        ->set_every_steps(checkpoint_every);
    return run;
  }

  const std::string model_;
  const std::string dataset_;
};

// A program of four phases, killed at 24 points: after any step and between any two phases.
class ResumeAnywhereTest : public ResumeTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(ResumeAnywhereTest, WithTheSameBits) {
  const char* const program = GetParam();
  const internal::Run straight_run = Job(1'000'000, program);
  RecordingSink straight;
  const internal::Ended straight_end = RunByClock(straight_run, &straight);
  ASSERT_EQ(straight_end.end().outcome(), v1::AttemptEnd::SUCCEEDED)
      << straight_end.ShortDebugString();
  ASSERT_EQ(straight.Phases().size(), 4u);
  const std::string weights = ResultWeights(straight_run);
  const std::map<int64_t, double> losses = straight.Series("loss");
  const std::string history = ReceiptOf(straight_run).history_sha256();

  // Checkpoints after every step and phase change nothing.
  const internal::Run dense_run = Job(1, program);
  RecordingSink dense;
  RunByClock(dense_run, &dense);
  EXPECT_EQ(ResultWeights(dense_run), weights);
  EXPECT_EQ(dense.Series("loss"), losses);

  const unsigned seed = std::random_device()();
  std::mt19937 random(seed);
  std::vector<size_t> points;
  std::set<int64_t> steps_seen;
  for (size_t i = 0; i < dense.checkpoints.size(); ++i) {
    // The second checkpoint at one step is the one between two phases: all of those are tried.
    if (!steps_seen.insert(dense.checkpoints[i].step()).second) points.push_back(i);
  }
  ASSERT_EQ(points.size(), 4u);
  while (points.size() < std::min<size_t>(24, dense.checkpoints.size())) {
    const size_t point = random() % dense.checkpoints.size();
    if (std::find(points.begin(), points.end(), point) == points.end()) points.push_back(point);
  }
  int mismatches = 0;
  for (const size_t point : points) {
    const internal::CheckpointReady& checkpoint = dense.checkpoints[point];
    internal::Run run = Job(1'000'000, program);
    run.set_checkpoint_dir(dense_run.work_dir() + "/" + checkpoint.dir());
    RecordingSink resumed;
    const internal::Ended end = RunByClock(run, &resumed);
    ASSERT_EQ(end.end().outcome(), v1::AttemptEnd::SUCCEEDED) << end.ShortDebugString();
    std::map<int64_t, double> expected = losses;
    expected.erase(expected.begin(), expected.upper_bound(checkpoint.step()));
    const bool same = ResultWeights(run) == weights && ReceiptOf(run).history_sha256() == history &&
                      resumed.Series("loss") == expected &&
                      end.metrics().at("loss") == straight_end.metrics().at("loss");
    EXPECT_TRUE(same) << "from " << checkpoint.ShortDebugString() << ", seed " << seed;
    mismatches += !same;
  }
  std::cout << "resume: seed " << seed << ", points tried " << points.size() << ", mismatches "
            << mismatches << std::endl;
  EXPECT_EQ(mismatches, 0);
}

std::string ProgramName(const ::testing::TestParamInfo<const char*>& info) {
  static const char* const kNames[] = {"Basic", "Rich", "OneSchedule"};
  return kNames[info.index];
}

INSTANTIATE_TEST_SUITE_P(Programs, ResumeAnywhereTest,
                         ::testing::Values(kProgram, kRichProgram, kOneSchedule), ProgramName);

TEST_F(ResumeTest, AfterAPauseBetweenStepsAndTwice) {
  const internal::Run straight_run = Job(1'000'000);
  RecordingSink straight;
  RunAttempt(straight_run, &straight);
  std::string checkpoint;
  std::map<int64_t, double> losses;
  std::string result;
  double loss_sum = 0, loss_units = 0;
  for (const int64_t pause_at : {7, 19, 0}) {
    internal::Run run = Job(1'000'000);
    run.set_checkpoint_dir(checkpoint);
    RecordingSink sink;
    Control control;
    sink.on_point = [&](const v1::MetricPoint& point) {
      if (point.step() == pause_at) control.RequestPause();
    };
    const internal::Ended end = RunAttempt(run, &sink, &control);
    losses.merge(sink.Series("loss"));
    for (const auto& [step, value] : sink.Series("loss_sum")) loss_sum += value;
    for (const auto& [step, value] : sink.Series("loss_units")) loss_units += value;
    if (pause_at == 0) {
      ASSERT_EQ(end.end().outcome(), v1::AttemptEnd::SUCCEEDED);
      result = ResultWeights(run);
      break;
    }
    ASSERT_EQ(end.end().outcome(), v1::AttemptEnd::PAUSED);
    EXPECT_EQ(end.end().step(), pause_at);
    ASSERT_FALSE(sink.checkpoints.empty());
    checkpoint = run.work_dir() + "/" + sink.checkpoints.back().dir();
  }
  EXPECT_EQ(losses, straight.Series("loss"));
  EXPECT_EQ(result, ResultWeights(straight_run));
  double straight_sum = 0, straight_units = 0;
  for (const auto& [step, value] : straight.Series("loss_sum")) straight_sum += value;
  for (const auto& [step, value] : straight.Series("loss_units")) straight_units += value;
  EXPECT_DOUBLE_EQ(loss_sum, straight_sum);
  EXPECT_EQ(loss_units, straight_units);
}

TEST_F(ResumeTest, FromAnEvaluationNothingIsToldTwice) {
  // Steps so fast that points sum several of them, and checkpoints where evaluations are due.
  const auto train = [](const internal::Run& run, RecordingSink* sink) {
    Control control;
    const FakeClock clock;
    EXPECT_EQ(
        RunTraining(run, {.sink = sink, .control = &control, .clock = &clock}).end().outcome(),
        v1::AttemptEnd::SUCCEEDED);
  };
  internal::Run first_run = Job(6);
  RecordingSink first, resumed;
  train(first_run, &first);
  ASSERT_EQ(first.checkpoints[0].step(), 6);
  ASSERT_EQ(first.Evaluations()[0].step(), 6);
  internal::Run resumed_run = Job(6);
  resumed_run.set_checkpoint_dir(first_run.work_dir() + "/" + first.checkpoints[0].dir());
  train(resumed_run, &resumed);
  EXPECT_EQ(resumed.Evaluations()[0].step(), 11);
  double units = 0, expected = 0;
  for (const auto& [step, value] : first.Series("loss_units")) {
    expected += value;
    if (step <= 6) units += value;
  }
  for (const auto& [step, value] : resumed.Series("loss_units")) units += value;
  EXPECT_EQ(units, expected);
}

TEST_F(ResumeTest, BeforeTheFirstStep) {
  internal::Run run = Job(1'000'000);
  RecordingSink sink;
  Control control;
  control.RequestPause();
  ASSERT_EQ(RunAttempt(run, &sink, &control).end().outcome(), v1::AttemptEnd::PAUSED);
  ASSERT_EQ(sink.checkpoints.size(), 1u);
  EXPECT_EQ(sink.checkpoints[0].step(), 0);
  internal::Run resumed_run = Job(1'000'000);
  resumed_run.set_checkpoint_dir(run.work_dir() + "/" + sink.checkpoints[0].dir());
  RecordingSink resumed, straight;
  internal::Run straight_run = Job(1'000'000);
  RunAttempt(resumed_run, &resumed);
  RunAttempt(straight_run, &straight);
  EXPECT_EQ(resumed.Series("loss"), straight.Series("loss"));
  EXPECT_EQ(ResultWeights(resumed_run), ResultWeights(straight_run));
}

TEST_F(ResumeTest, TwoRunsGiveTheSameBits) {
  const internal::Run first_run = Job(10), second_run = Job(10);
  RecordingSink first, second;
  RunAttempt(first_run, &first);
  RunAttempt(second_run, &second);
  EXPECT_EQ(first.Series("loss"), second.Series("loss"));
  EXPECT_EQ(first.Series("grad_norm"), second.Series("grad_norm"));
  EXPECT_EQ(ResultWeights(first_run), ResultWeights(second_run));
}

}  // namespace
}  // namespace thaw
