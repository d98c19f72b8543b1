#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "common/base/sha256.h"
#include "tests/testing/fake_clock.h"
#include "tests/worker/training/toy_job.h"
#include "worker/model/model.h"
#include "worker/model/tensor_view.h"

namespace thaw {
namespace {

using ::testing::ContainsRegex;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

std::map<std::string, std::string> TensorHashes(const std::string& file) {
  const auto opened = SafetensorsFile::Open(file);
  EXPECT_TRUE(opened.ok()) << opened.status();
  std::map<std::string, std::string> hashes;
  for (const TensorInfo& info : (*opened)->tensors()) {
    hashes[info.name] = Sha256Hex(absl::string_view(static_cast<const char*>((*opened)->Data(info)),
                                                    static_cast<size_t>(info.end - info.begin)));
  }
  return hashes;
}

class TrainingTest : public ::testing::Test {
 protected:
  internal::Run Job(const std::string& training, double dropout = 0, int rows = 100) {
    return ToyTraining(MakeToyModel(FreshDirectory("model"), dropout),
                       MakeToyDataset(FreshDirectory("dataset"), rows, 5), training);
  }
};

TEST_F(TrainingTest, LearnsAndLeavesAModelThatLoadsAndSaysTheSame) {
  const internal::Run run =
      Job("validation_fraction: 0.2 phases { selector { everything: true } learning_rate: 0.005 "
          "epochs: "
          "10 }");
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  EXPECT_GT(ended.metrics().at("accuracy"), 0.6);
  EXPECT_LT(sink.Series("loss").rbegin()->second, 0.5 * sink.Series("loss").begin()->second);
  EXPECT_EQ(sink.Evaluations().size(), 10u);

  const std::string result = run.work_dir() + "/" + ended.result_dir();
  const auto config = ReadJsonFile(result + "/config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ((*config)["id2label"],
            nlohmann::json({{"0", "left"}, {"1", "middle"}, {"2", "right"}}));
  EXPECT_EQ((*config)["label2id"], nlohmann::json({{"left", 0}, {"middle", 1}, {"right", 2}}));
  EXPECT_THAT((*config)["architectures"], ElementsAre("BertForSequenceClassification"));
  EXPECT_TRUE(Exists(result + "/tokenizer.json"));
  EXPECT_TRUE(Exists(result + "/vocab.txt"));

  // Our own loader gives the evaluation's figures to the last bit.
  internal::Run prediction = ToyPrediction(result, FreshDirectory("validation"), "max_length: 256");
  const auto again = ReadFile(run.dataset_dir() + "/data.jsonl");
  ASSERT_TRUE(WriteFileAtomically(prediction.dataset_dir() + "/data.jsonl", *again).ok());
  RecordingSink first_sink, second_sink;
  const internal::Ended first = RunAttempt(prediction, &first_sink);
  ASSERT_EQ(first.end().outcome(), v1::AttemptEnd::SUCCEEDED) << first.ShortDebugString();
  const auto model = LoadModel(result, std::nullopt);
  ASSERT_TRUE(model.ok()) << model.status();
  const std::string copy = FreshDirectory("copy");
  ASSERT_TRUE(SaveModel(**model, copy).ok());
  EXPECT_EQ(*ReadFile(copy + "/model.safetensors"), ResultWeights(run));
}

TEST_F(TrainingTest, TellsPeopleWhatItDoes) {
  RecordingSink sink;
  RunAttempt(Job("validation_fraction: 0.2 phases { selector { everything: true } learning_rate: "
                 "0.001 steps: 4 }"),
             &sink);
  EXPECT_THAT(
      sink.LogLines(),
      ElementsAre(
          ContainsRegex("^rows tokenized: [78][0-9] to train on with [0-9]+ tokens, [12][0-9] to "
                        "validate with, 3 labels, in [0-9.]+ s$"),
          ContainsRegex("^training rows: half up to [0-9]+ tokens, 90 % up to [0-9]+, 99 % up to "
                        "2[0-9], the longest 2[0-9]$"),
          ContainsRegex("^validation rows: half up to [0-9]+ tokens, "),
          ContainsRegex("^model loaded: [0-9]+ parameters in 5 groups, [0-9.]+ MiB, in [0-9.]+ s$"),
          ContainsRegex(
              "^result written: the weights with the best metric, of optimizer step 4, in")));
}

TEST_F(TrainingTest, TellsTheGradientNormOfEachGroupThatTrains) {
  RecordingSink sink;
  RunAttempt(
      Job("validation_fraction: 0 phases { selector { head_only: true } learning_rate: 0.001 "
          "steps: 3 } phases { selector { everything: true } learning_rate: 0.001 steps: 3 }"),
      &sink);
  const std::map<int64_t, double> whole = sink.Series("grad_norm");
  ASSERT_THAT(whole, SizeIs(6));
  std::map<int64_t, double> squares;
  for (const v1::PhaseStart& phase : sink.Phases()) {
    for (const v1::GroupRate& rate : phase.rates()) {
      const std::map<int64_t, double> norms = sink.Series("grad_norm", rate.group());
      EXPECT_EQ(norms.rbegin()->first, 6) << rate.group();
      for (int64_t step = phase.step() + 1; step <= phase.step() + phase.steps(); ++step) {
        squares[step] += norms.at(step) * norms.at(step);
      }
    }
  }
  EXPECT_THAT(sink.Series("grad_norm", "embeddings"), SizeIs(3)) << "of the second phase";
  EXPECT_EQ(sink.Phases()[0].rates(0).group(), "head");
  for (const auto& [step, norm] : whole) EXPECT_NEAR(std::sqrt(squares.at(step)) / norm, 1, 1e-9);
}

TEST_F(TrainingTest, AccumulationChangesNothing) {
  const auto losses = [&](int tokens_per_micro_step) {
    const internal::Run run = Job(
        absl::StrCat("validation_fraction: 0 phases { selector { everything: true } learning_rate: "
                     "0.001 steps: 10 } batch { examples_per_step: 8 tokens_per_micro_step: ",
                     tokens_per_micro_step, " }"));
    RecordingSink sink;
    RunAttempt(run, &sink);
    return std::make_pair(sink.Series("loss"), sink.Series("grad_norm"));
  };
  const auto [whole, whole_norms] = losses(4096);  // 1 x 8
  const auto [single, single_norms] = losses(1);   // 8 x 1
  ASSERT_THAT(whole, SizeIs(10));
  double worst = 0;
  for (const auto& [step, loss] : whole) {
    worst = std::max(worst, std::abs(single.at(step) - loss) / loss);
    EXPECT_NEAR(single_norms.at(step) / whole_norms.at(step), 1, 1e-4) << step;
  }
  std::printf("[ FIGURE   ] 1 x 8 against 8 x 1: losses of ten steps differ by at most %.1e\n",
              worst);
  EXPECT_LT(worst, 1e-6);
}

TEST_F(TrainingTest, FrozenTensorsKeepTheirBytes) {
  const internal::Run run = Job(
      "validation_fraction: 0.2"
      " phases { selector { head_only: true } learning_rate: 0.01 epochs: 1 }"
      " phases { selector { last_blocks: 1 exclude_patterns: '.*LayerNorm.*' } learning_rate: 0.01"
      "          epochs: 1 }"
      " phases { selector { name_pattern: 'bert\\\\.encoder\\\\.layer\\\\.0\\\\..*bias' }"
      "          learning_rate: 0.01 steps: 3 } evaluation { keep_best: false }",
      0.1);
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(run, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  std::set<std::string> trained;
  for (const v1::PhaseStart& phase : sink.Phases()) {
    trained.insert(phase.trainable_names().begin(), phase.trainable_names().end());
  }
  const auto before = TensorHashes(run.model_dir() + "/model.safetensors");
  const auto after = TensorHashes(run.work_dir() + "/result/model.safetensors");
  int frozen = 0;
  for (const auto& [name, hash] : after) {
    if (trained.contains(name)) {
      // A fresh head has nothing to compare with, and key biases have no gradient to speak of.
      if (!before.contains(name)) continue;
      EXPECT_NE(hash, before.at(name)) << name;
    } else {
      EXPECT_EQ(hash, before.at(name)) << name;
      ++frozen;
    }
  }
  EXPECT_GT(frozen, 20);
}

TEST_F(TrainingTest, AnnouncesPhases) {
  const internal::Run run = Job(
      "validation_fraction: 0.2 phases { name: 'warm' selector { head_only: true } learning_rate: "
      "0.01 steps: 2 } phases { name: 'deep' selector { last_blocks: 2 } learning_rate: 0.01 "
      "learning_rate_decay: 2 steps: 3 }");
  RecordingSink sink;
  RunAttempt(run, &sink);
  const auto phases = sink.Phases();
  ASSERT_THAT(phases, SizeIs(2));
  EXPECT_EQ(phases[0].name(), "warm");
  EXPECT_THAT(phases[0].trainable_names(),
              ElementsAre("bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight",
                          "classifier.bias"));
  EXPECT_EQ(phases[0].trainable_parameters(), 48 * 48 + 48 + 3 * 48 + 3);
  EXPECT_EQ(phases[0].total_parameters(), 69201);
  EXPECT_EQ(phases[1].step(), 2);
  EXPECT_EQ(phases[1].steps(), 3);
  ASSERT_EQ(phases[1].rates_size(), 3);
  EXPECT_EQ(phases[1].rates(0).group(), "block.1");
  EXPECT_DOUBLE_EQ(phases[1].rates(0).learning_rate(), 0.0025);
  EXPECT_EQ(phases[1].rates(2).group(), "head");
  EXPECT_DOUBLE_EQ(phases[1].rates(2).learning_rate(), 0.01);
}

TEST_F(TrainingTest, BestWeightsAreKeptAndReturnedTo) {
  // The second phase ruins the model; the result is what the first one reached.
  const std::string first =
      "phases { selector { everything: true } learning_rate: 0.005 epochs: 4 }";
  const std::string ruin = "phases { selector { everything: true } learning_rate: 0.5 epochs: 1 }";
  const internal::Run good = Job("validation_fraction: 0.2 " + first);
  RecordingSink good_sink;
  RunAttempt(good, &good_sink);
  const internal::Run ruined = Job("validation_fraction: 0.2 " + first + ruin);
  RecordingSink ruined_sink;
  const internal::Ended ended = RunAttempt(ruined, &ruined_sink);
  EXPECT_EQ(ResultWeights(ruined), ResultWeights(good));
  EXPECT_LT(ruined_sink.Evaluations().back().values().at("accuracy"),
            ended.metrics().at("accuracy"));

  // A phase that begins from the best and hardly moves leaves what the first one reached, even when
  // the last weights are asked for.
  const std::string rest =
      " phases { selector { head_only: true } learning_rate: 1e-12 steps: 1 restore_best: true } "
      "evaluation { keep_best: false }";
  const internal::Run restored = Job("validation_fraction: 0.2 " + first + ruin + rest);
  RecordingSink restored_sink;
  RunAttempt(restored, &restored_sink);
  EXPECT_DOUBLE_EQ(restored_sink.Evaluations().back().values().at("accuracy"),
                   ended.metrics().at("accuracy"));
}

TEST_F(TrainingTest, PatienceEndsTheJob) {
  const internal::Run run = Job(
      "validation_fraction: 0.2 phases { selector { head_only: true } learning_rate: 1e-12 epochs: "
      "50 } phases { selector { everything: true } learning_rate: 0.01 epochs: 5 } evaluation { "
      "patience: 3 }");
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED);
  EXPECT_THAT(sink.Phases(), SizeIs(1));
  EXPECT_THAT(sink.Evaluations(), SizeIs(4));
  // The phase that never began is not spoken of.
  EXPECT_EQ(ended.metrics().at("trainable_parameters"), sink.Phases()[0].trainable_parameters());
  EXPECT_EQ(sink.progress.phase(), 1);
}

TEST_F(TrainingTest, NonFiniteLossNamesStepAndLines) {
  const internal::Run run =
      Job("validation_fraction: 0 max_grad_norm: 0 phases { selector { everything: true } "
          "learning_rate: 1 steps: 50 } optimizer { epsilon: 1e-30 weight_decay: 0 }");
  // A learning rate that no job may ask for.
  internal::Run wild = run;
  wild.mutable_assignment()
      ->mutable_spec()
      ->mutable_training()
      ->mutable_phases(0)
      ->set_learning_rate(1e30);
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(wild, &sink);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::FAILED) << ended.ShortDebugString();
  const v1::Failure& failure = ended.end().failure();
  EXPECT_EQ(failure.blame(), v1::Failure::USER);
  EXPECT_THAT(failure.reason(), ::testing::StartsWith("NON_FINITE"));
  EXPECT_THAT(failure.message(), HasSubstr(absl::StrCat("optimizer step ", failure.step() + 1)));
  if (failure.reason() == "NON_FINITE_LOSS") {
    EXPECT_THAT(failure.message(), HasSubstr("on lines "));
  }
  EXPECT_FALSE(Exists(run.work_dir() + "/result"));
}

TEST_F(TrainingTest, WeightsThatOverflowAreNoResult) {
  internal::Run run =
      Job("validation_fraction: 0 phases { selector { everything: true } learning_rate: 1 steps: 2 "
          "}");
  // Beyond what fp32 holds, with a loss and gradients that are still numbers.
  run.mutable_assignment()
      ->mutable_spec()
      ->mutable_training()
      ->mutable_phases(0)
      ->set_learning_rate(1e39);
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  EXPECT_EQ(ended.end().failure().reason(), "NON_FINITE_WEIGHTS") << ended.ShortDebugString();
  EXPECT_THAT(ended.end().failure().message(), HasSubstr("after optimizer step 1 are not finite"));
  EXPECT_FALSE(Exists(run.work_dir() + "/result"));
}

TEST_F(TrainingTest, StopLeavesNothing) {
  const internal::Run run =
      Job("validation_fraction: 0.2 phases { selector { everything: true } learning_rate: 0.001 "
          "steps: 50 }");
  RecordingSink sink;
  Control control;
  sink.on_point = [&](const v1::MetricPoint& point) {
    if (point.step() == 3) control.RequestStop();
  };
  const internal::Ended ended = RunAttempt(run, &sink, &control);
  EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::STOPPED);
  EXPECT_EQ(ended.end().step(), 3);
  EXPECT_THAT(sink.checkpoints, SizeIs(0));
  EXPECT_FALSE(Exists(run.work_dir() + "/result"));
}

TEST_F(TrainingTest, CheckpointOnRequestGoesOn) {
  const internal::Run run = Job(
      "validation_fraction: 0 phases { selector { head_only: true } learning_rate: 0.001 steps: "
      "6 } checkpoint { every_steps: 4 }");
  RecordingSink sink;
  Control control;
  sink.on_point = [&](const v1::MetricPoint& point) {
    if (point.step() == 3) control.RequestCheckpoint();
  };
  ASSERT_EQ(RunAttempt(run, &sink, &control).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  std::vector<int64_t> steps;
  for (const auto& checkpoint : sink.checkpoints) steps.push_back(checkpoint.step());
  // Asked for, by the policy, at the phase's end.
  EXPECT_THAT(steps, ElementsAre(3, 4, 6));
}

TEST_F(TrainingTest, OutOfTimeKeepsTheBest) {
  internal::Run run =
      Job("validation_fraction: 0.2 phases { selector { everything: true } learning_rate: 0.001 "
          "steps: 1000 }");
  run.mutable_assignment()->mutable_runtime_left()->set_seconds(10);
  FakeClock clock;
  RecordingSink sink;
  Control control;
  sink.on_point = [&](const v1::MetricPoint&) { clock.AdvanceSeconds(3); };
  const internal::Ended ended = RunAttempt(run, &sink, &control, clock);
  EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  EXPECT_EQ(ended.end().step(), 4);
  EXPECT_TRUE(ended.metrics().contains("accuracy"));
  EXPECT_EQ(sink.Warnings().back().reason(), "MAX_RUNTIME");
  EXPECT_TRUE(Exists(run.work_dir() + "/result/model.safetensors"));

  run.mutable_assignment()->mutable_runtime_left()->set_seconds(0);
  run.set_work_dir(FreshDirectory("work"));
  const internal::Ended nothing = RunAttempt(run, &sink, &control, clock);
  EXPECT_EQ(nothing.end().outcome(), v1::AttemptEnd::FAILED);
  EXPECT_EQ(nothing.end().failure().reason(), "MAX_RUNTIME");
}

TEST_F(TrainingTest, OutOfTimeTheFiguresAreThoseOfTheResult) {
  internal::Run run =
      Job("validation_fraction: 0.2 phases { selector { everything: true } learning_rate: 0.01 "
          "steps: 1000 } evaluation { every_epochs: 0.27 keep_best: false }");
  run.mutable_assignment()->mutable_runtime_left()->set_seconds(10);
  FakeClock clock;
  RecordingSink sink;
  Control control;
  sink.on_point = [&](const v1::MetricPoint&) { clock.AdvanceSeconds(2.5); };
  const internal::Ended ended = RunAttempt(run, &sink, &control, clock);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  const auto evaluations = sink.Evaluations();
  ASSERT_THAT(evaluations, SizeIs(2));
  EXPECT_EQ(evaluations[0].step(), 3);
  EXPECT_EQ(evaluations[1].step(), ended.end().step());
  EXPECT_EQ(ended.metrics().at("loss"), evaluations[1].values().at("loss"));
}

// Moves with every look at it, so that every beat is passed on.
class RestlessClock final : public Clock {
 public:
  int64_t WallMicros() const override { return BootMicros(); }
  int64_t BootMicros() const override { return micros_ += 1'000'000; }

 private:
  mutable int64_t micros_ = 0;
};

TEST_F(TrainingTest, ShortOfMemoryEvaluationTakesSmallerBatchesToo) {
  const auto beats = [&](int divisor) {
    internal::Run run =
        Job("validation_fraction: 0.5 phases { selector { head_only: true } learning_rate: 0.01 "
            "steps: 1 } batch { examples_per_step: 1 tokens_per_micro_step: 4096 }");
    run.mutable_assignment()->set_micro_step_divisor(divisor);
    const RestlessClock clock;
    RecordingSink sink;
    Control control;
    EXPECT_EQ(RunAttempt(run, &sink, &control, clock).end().outcome(), v1::AttemptEnd::SUCCEEDED);
    return sink.beats;
  };
  // Some fifty rows of ten tokens: one batch, or one for each.
  EXPECT_GT(beats(1024), beats(1) + 20);
}

TEST_F(TrainingTest, TruncationIsToldOf) {
  const internal::Run run =
      Job("validation_fraction: 0 max_length: 10 phases { selector { head_only: true } "
          "learning_rate: 0.001 steps: 1 }");
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(run, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  EXPECT_EQ(sink.Warnings().back().reason(), "ROWS_TRUNCATED");
}

struct FailureCase {
  std::string training;
  std::string dataset;
  v1::Failure::Blame blame;
  std::string message;
};

TEST_F(TrainingTest, FailsBeforeTheFirstStepWithBlame) {
  const std::string phase = "phases { selector { head_only: true } learning_rate: 0.1 steps: 1 } ";
  const std::string good = "{\"text\":\"w1\",\"label\":\"a\"}\n{\"text\":\"w2\",\"label\":\"b\"}\n";
  const std::vector<FailureCase> cases = {
      {"validation_fraction: 0 phases { selector { name_pattern: 'no' } learning_rate: 0.1 steps: "
       "1 }",
       good, v1::Failure::USER, "matches none"},
      {"validation_fraction: 0 " + phase +
           "phases { selector { last_blocks: 4 } learning_rate: 0.1 steps: 1 }",
       good, v1::Failure::USER, "the model has 3 blocks"},
      {"validation_fraction: 0 " + phase, "{\"text\":\"w1\",\"label\":\"a\"}\n", v1::Failure::DATA,
       "at least 2"},
      {"validation_fraction: 0 " + phase, good + "{\"text\":7}\n", v1::Failure::DATA, "line 3"},
      {"validation_fraction: 0 text_classification { text_column: 'body' } " + phase, good,
       v1::Failure::DATA, "body"},
      {"validation_fraction: 0 phases { selector { head_only: true } learning_rate: 0.1 plateau { "
       "max_epochs: 1 } }",
       good, v1::Failure::DATA, "no validation rows"}};
  const std::string model = MakeToyModel(FreshDirectory("model"), 0);
  for (const FailureCase& test : cases) {
    const std::string dataset = FreshDirectory("dataset");
    ASSERT_TRUE(WriteFileAtomically(dataset + "/data.jsonl", test.dataset).ok());
    RecordingSink sink;
    const internal::Ended ended = RunAttempt(ToyTraining(model, dataset, test.training), &sink);
    EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::FAILED) << test.training;
    EXPECT_EQ(ended.end().failure().blame(), test.blame) << ended.ShortDebugString();
    EXPECT_THAT(ended.end().failure().message(), HasSubstr(test.message));
  }
}

TEST_F(TrainingTest, RefusesATokenizerOfAnotherModel) {
  internal::Run run = Job(
      "validation_fraction: 0 phases { selector { head_only: true } learning_rate: 0.1 steps: 1 }");
  const std::string other =
      *ReadFile(absl::StrCat(getenv("THAW_TEST_DATA"), "/tokenizers/minilm.tokenizer.json"));
  ASSERT_TRUE(WriteFileAtomically(run.model_dir() + "/tokenizer.json", other).ok());
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  EXPECT_EQ(ended.end().failure().blame(), v1::Failure::USER);
  EXPECT_THAT(ended.end().failure().message(), HasSubstr("embedding table"));
}

}  // namespace
}  // namespace thaw
