// A model that reads joined texts on, row by row: its state goes from step to step, through
// micro-steps, checkpoints and evaluations.
#include "worker/training/carried_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "tests/worker/training/toy_job.h"
#include "worker/data/batch_plan.h"
#include "worker/training/evaluation.h"
#include "worker/training/training_inputs.h"
#include "worker/training/training_task.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;
using torch::Tensor;

constexpr int32_t kLanes = 3;

class CarriedText : public ::testing::Test {
 protected:
  // Rows of seven tokens; how many there are is no multiple of the lanes.
  internal::Run Job(const std::string& training, double drop_mult = 0) const {
    return ToyTraining(MakeToyLstm(FreshDirectory("model"), drop_mult),
                       MakeToyTexts(FreshDirectory("dataset"), 30, 3),
                       absl::StrCat("language_modeling {} max_length: 7 ", training));
  }
  // So little that no weight changes.
  internal::Run StandingStill(int epochs) const {
    return Job(absl::StrCat(
        "validation_fraction: 0 batch { examples_per_step: 3 } optimizer { weight_decay: 0 } "
        "phases { selector { everything: true } learning_rate: 1e-12 epochs: ",
        epochs, " }"));
  }
  static TrainingInputs InputsOf(const internal::Run& run) {
    const auto config = ParseModelConfig(*ReadFile(run.model_dir() + "/config.json"));
    return *ReadTrainingInputs(run, run.model_dir(), *config, 1, [] {});
  }
  static std::unique_ptr<Model> ModelOf(const internal::Run& run) {
    return *LoadModel(run.model_dir(), HeadSpec{.labels = {},
                                                .problem = ProblemType::kSingleLabel,
                                                .seed = run.assignment().spec().training().seed(),
                                                .kind = HeadKind::kLanguageModel});
  }
};

// Every lane's rows joined to one sequence, each of whose tokens foretells the next one.
PackedBatch WholeLanes(const TokenizedDataset& text, int64_t lanes) {
  PackedBatch batch;
  batch.cu_seqlens = {0};
  int64_t row = 0;
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const int64_t rows = text.rows() / lanes + (lane < text.rows() % lanes);
    for (int64_t at = text.offsets[row]; at < text.offsets[row + rows]; ++at) {
      if (at + 1 < static_cast<int64_t>(text.token_ids.size())) {
        batch.loss_rows.push_back(batch.tokens());
        batch.next_ids.push_back(text.token_ids[at + 1]);
      }
      batch.token_ids.push_back(text.token_ids[at]);
    }
    row += rows;
    batch.rows.push_back(lane);
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.tokens()));
  }
  EXPECT_EQ(row, text.rows());
  return batch;
}

double LossOf(Model* model, const PackedBatch& batch) {
  return TaskFor(model->config(), kLanes)
      ->LossSum(model, batch, TrainedGroups(), DropoutKey(), nullptr, nullptr)
      .item<double>();
}

TEST_F(CarriedText, StepsGiveTheLossOfOneLongForward) {
  const internal::Run run = StandingStill(1);
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(run, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  const TokenizedDataset text = InputsOf(run).training;
  ASSERT_NE(text.rows() % kLanes, 0);
  ASSERT_GT(sink.Series("loss").size(), 10u);
  double steps = 0, units = 0;
  for (const auto& [step, loss] : sink.Series("loss_sum")) steps += loss;
  for (const auto& [step, count] : sink.Series("loss_units")) units += count;
  EXPECT_EQ(units, static_cast<double>(text.token_ids.size() - 1)) << "every token but the first";

  const auto model = ModelOf(run);
  const double whole = LossOf(model.get(), WholeLanes(text, kLanes));
  double alone = 0;
  for (int64_t row = 0; row < text.rows(); ++row) {
    alone += LossOf(model.get(), Pack(text, {&row, 1}));
  }
  const double carried_error = std::abs(steps / whole - 1),
               alone_error = std::abs(alone / whole - 1);
  std::printf(
      "[ FIGURE   ] %d steps against one long forward: the loss differs by %.1e, without "
      "carrying by %.1e (relative)\n",
      static_cast<int>(sink.Series("loss").size()), carried_error, alone_error);
  EXPECT_LT(carried_error, 1e-6);
  EXPECT_GT(alone_error, 30 * carried_error);
}

TEST_F(CarriedText, EveryEpochBeginsWithAnEmptyState) {
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(StandingStill(2), &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  const std::map<int64_t, double> losses = sink.Series("loss");
  const auto steps = static_cast<int64_t>(losses.size() / 2);
  for (int64_t step = 1; step <= steps; ++step) {
    EXPECT_NEAR(losses.at(step + steps) / losses.at(step), 1, 1e-9) << step;
  }
}

TEST_F(CarriedText, NoGradientFlowsIntoTheStepBefore) {
  const internal::Run run = StandingStill(1);
  const auto model = ModelOf(run);
  std::vector<std::string> names;
  for (const Parameter& parameter : model->parameters().all()) {
    names.push_back(parameter.name);
    Tensor(parameter.tensor).requires_grad_();
  }
  const TrainedGroups trained(*model, names);
  const TokenizedDataset text = InputsOf(run).training;
  const auto task = TaskFor(model->config(), 1);
  const auto gradient = [&] {
    return model->parameters().Find("0.rnns.0.weight_hh_l0_raw")->tensor.grad().clone();
  };
  const auto second_row = [&](SequenceState* state) {
    for (const Parameter& parameter : model->parameters().all()) {
      Tensor(parameter.tensor).mutable_grad().reset();
    }
    const int64_t row = 1;
    const PackedBatch batch = Pack(text, {&row, 1});
    task->LossSum(model.get(), batch, trained, DropoutKey(), state, nullptr).backward();
    return gradient();
  };
  CarriedState carried(model->blocks());
  SequenceState state = carried.NextLanes(1);
  const int64_t row = 0;
  const PackedBatch first = Pack(text, {&row, 1});
  task->LossSum(model.get(), first, trained, DropoutKey(), &state, nullptr).backward();
  carried.Put(std::move(state));
  carried.StepDone();
  for (const auto& [name, tensor] : carried.tensors()) EXPECT_FALSE(tensor.requires_grad()) << name;

  SequenceState read_on = carried.NextLanes(1), constants = carried.NextLanes(1);
  for (int block = 0; block < model->blocks(); ++block) {
    constants.block(block).hidden = constants.block(block).hidden.detach().clone();
    constants.block(block).cell = constants.block(block).cell.detach().clone();
  }
  const Tensor cut = second_row(&read_on);
  EXPECT_TRUE(at::equal(cut, second_row(&constants)));
  EXPECT_FALSE(at::allclose(cut, second_row(nullptr), 1e-5, 1e-9)) << "the state matters";
  // The gradient of the whole, less that of the first row, also has what flows over the border.
  for (const Parameter& parameter : model->parameters().all()) {
    Tensor(parameter.tensor).mutable_grad().reset();
  }
  TokenizedDataset joined = text;
  joined.offsets = {0, text.offsets[2]};
  joined.answers = {};
  const TokenSpan behind = {static_cast<int32_t>(text.offsets[1]) + 1,
                            static_cast<int32_t>(text.offsets[2]) + 1};
  joined.answers.Append({&behind, 1});
  const PackedBatch both = Pack(joined, {&row, 1});
  task->LossSum(model.get(), both, trained, DropoutKey(), nullptr, nullptr).backward();
  EXPECT_FALSE(at::allclose(cut, gradient(), 1e-5, 1e-9)) << "nothing to cut";
}

TEST_F(CarriedText, AccumulationChangesNothing) {
  const auto losses = [&](int tokens_per_micro_step) {
    RecordingSink sink;
    const internal::Run run = Job(absl::StrCat(
        "validation_fraction: 0.2 phases { selector { everything: true } learning_rate: 0.003 "
        "steps: 10 } batch { examples_per_step: 8 tokens_per_micro_step: ",
        tokens_per_micro_step, " }"));
    EXPECT_EQ(RunAttempt(run, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
    std::map<int64_t, double> series = sink.Series("loss");
    series[0] = sink.Evaluations().back().values().at("loss");
    return series;
  };
  const auto whole = losses(4096), single = losses(1);  // 1 x 8, 8 x 1
  ASSERT_THAT(whole, SizeIs(11));
  double worst = 0;
  for (const auto& [step, loss] : whole) {
    worst = std::max(worst, std::abs(single.at(step) - loss) / loss);
  }
  std::printf("[ FIGURE   ] state carried, 1 x 8 against 8 x 1: losses differ by at most %.1e\n",
              worst);
  EXPECT_LT(worst, 1e-6);
}

constexpr char kTwoPhases[] =
    "validation_fraction: 0.2 batch { examples_per_step: 3 } checkpoint { every_steps: 1 } "
    "phases { selector { last_blocks: 1 } learning_rate: 0.005 epochs: 0.6 } "
    "phases { selector { everything: true } learning_rate: 0.005 epochs: 1.5 } "
    "evaluation { every_epochs: 0.5 }";

TEST_F(CarriedText, ResumesWithTheSameBits) {
  const internal::Run straight_run = Job(kTwoPhases, 1);
  RecordingSink straight;
  ASSERT_EQ(RunAttempt(straight_run, &straight).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  const size_t count = straight.checkpoints.size();
  ASSERT_GT(count, 12u);
  int in_the_midst = 0;
  // In the first phase and the second, and between the two.
  for (const size_t point : {size_t{2}, count / 3, count / 2, count - 3}) {
    internal::Run run = straight_run;
    run.set_work_dir(FreshDirectory("work"));
    run.set_checkpoint_dir(straight_run.work_dir() + "/" + straight.checkpoints[point].dir());
    in_the_midst += Exists(run.checkpoint_dir() + "/carried.safetensors");
    RecordingSink resumed;
    const internal::Ended ended = RunAttempt(run, &resumed);
    ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
    EXPECT_EQ(ResultWeights(run), ResultWeights(straight_run))
        << straight.checkpoints[point].ShortDebugString();
    std::map<int64_t, double> expected = straight.Series("loss");
    expected.erase(expected.begin(), expected.upper_bound(straight.checkpoints[point].step()));
    EXPECT_EQ(resumed.Series("loss"), expected);
    EXPECT_EQ(resumed.Evaluations().back().values().at("loss"),
              straight.Evaluations().back().values().at("loss"));
  }
  EXPECT_GE(in_the_midst, 3);
}

TEST_F(CarriedText, RefusesACheckpointOfOtherLanes) {
  internal::Run run = Job(kTwoPhases);
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(run, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  run.set_checkpoint_dir(run.work_dir() + "/" + sink.checkpoints[1].dir());
  run.set_work_dir(FreshDirectory("work"));
  run.mutable_assignment()
      ->mutable_spec()
      ->mutable_training()
      ->mutable_batch()
      ->set_examples_per_step(4);
  EXPECT_THAT(RunAttempt(run, &sink).end().failure().message(),
              HasSubstr("read its texts in 3 lanes, this one reads them in 4"));
}

TEST_F(CarriedText, AnEvaluationReadsOnThroughTheWholeText) {
  const internal::Run run = StandingStill(1);
  const auto model = ModelOf(run);
  const TokenizedDataset text = InputsOf(run).training;
  const auto go_on = [](int64_t) { return true; };
  for (const int32_t lanes : {1, 4}) {
    const auto units = static_cast<double>(text.token_ids.size() - 1);
    const double whole = LossOf(model.get(), WholeLanes(text, lanes)) / units;
    const auto values = *EvaluateTokens(model.get(), text, 16, lanes, go_on);
    EXPECT_NEAR(values.at("loss") / whole, 1, 1e-6) << lanes;
    EXPECT_EQ(values.at("loss"), EvaluateTokens(model.get(), text, 16, lanes, go_on)->at("loss"));
    EXPECT_GT(std::abs(EvaluateTokens(model.get(), text, 16, 0, go_on)->at("loss") / whole - 1),
              3e-6);
  }
  EXPECT_FALSE(EvaluateTokens(model.get(), text, 16, 2, [](int64_t rows) { return rows < 4; }));
}

TEST_F(CarriedText, DocumentsStandAlone) {
  internal::Run run = Job(kTwoPhases);
  run.mutable_assignment()
      ->mutable_spec()
      ->mutable_training()
      ->mutable_language_modeling()
      ->set_layout(v1::LanguageModeling::PER_DOCUMENT);
  EXPECT_FALSE(InputsOf(run).in_lanes);
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(run, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  for (const auto& checkpoint : sink.checkpoints) {
    EXPECT_FALSE(Exists(run.work_dir() + "/" + checkpoint.dir() + "/carried.safetensors"));
  }
}

}  // namespace
}  // namespace thaw
