// What a training makes of its rows: formats, splits, long rows, weights of labels, and what it
// tells of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "tests/worker/training/toy_job.h"
#include "worker/model/config.h"
#include "worker/training/training_inputs.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kFewSteps[] =
    " phases { selector { everything: true } learning_rate: 0.002 steps: 12 }";

internal::Run RowsJob(const std::string& training, int rows = 100) {
  return ToyTraining(MakeToyModel(FreshDirectory("model"), 0.1),
                     MakeToyDataset(FreshDirectory("dataset"), rows, 5), training);
}

TrainingInputs InputsOf(const internal::Run& run) {
  const auto config = ParseModelConfig(*ReadFile(run.model_dir() + "/config.json"));
  auto inputs = ReadTrainingInputs(run, run.model_dir(), *config, 1, [] {});
  EXPECT_TRUE(inputs.ok()) << inputs.status();
  return *std::move(inputs);
}

void Rewrite(const internal::Run& run, const std::string& file, const std::string& contents) {
  ASSERT_TRUE(RemoveTree(run.dataset_dir() + "/data.jsonl").ok());
  ASSERT_TRUE(WriteFileAtomically(run.dataset_dir() + "/" + file, contents).ok());
}

// The file's rows as objects.
std::vector<nlohmann::json> RowsIn(const internal::Run& run) {
  std::vector<nlohmann::json> rows;
  const std::string text = *ReadFile(run.dataset_dir() + "/data.jsonl");
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    rows.push_back(nlohmann::json::parse(std::string(line)));
  }
  return rows;
}

TEST(TrainingRowsTest, TheFormatOfTheFileChangesNothing) {
  const std::string training = absl::StrCat("validation_fraction: 0.2", kFewSteps);
  const internal::Run json = RowsJob(training), csv = RowsJob(training), tsv = RowsJob(training);
  std::string comma = "\xEF\xBB\xBFid,label,text\r\n", tab = "text\tlabel\n";
  for (const nlohmann::json& row : RowsIn(csv)) {
    const std::string text = row["text"], label = row["label"];
    absl::StrAppend(&comma, "7,\"", label, "\",\"", text, "\"\r\n");
    absl::StrAppend(&tab, text, "\t", label, "\n");
  }
  Rewrite(csv, "data.csv", comma);
  Rewrite(tsv, "data.tsv", tab);
  RecordingSink sink;
  for (const internal::Run* run : {&json, &csv, &tsv}) {
    ASSERT_EQ(RunAttempt(*run, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  }
  EXPECT_EQ(ResultWeights(csv), ResultWeights(json));
  EXPECT_EQ(ResultWeights(tsv), ResultWeights(json));
}

TEST(TrainingRowsTest, PlainTextIsRead) {
  internal::Run run = ToyTraining(
      MakeToyWriter(FreshDirectory("model"), "gpt2", 0),
      MakeToyTexts(FreshDirectory("dataset"), 1, 5),
      absl::StrCat("language_modeling { layout: PER_DOCUMENT } validation_fraction: 0", kFewSteps));
  Rewrite(run, "data.txt", "w1 w2\nw3\n\n\nw4 w5 w6 w7\n");
  const TrainingInputs inputs = InputsOf(run);
  EXPECT_EQ(inputs.training.rows(), 2);
  EXPECT_EQ(inputs.training.length(0), 4);  // with its end
  EXPECT_THAT(inputs.training.lines, ElementsAre(1, 5));
}

TEST(TrainingRowsTest, LongTextsAreCutSplitOrDropped) {
  const auto inputs_of = [](const std::string& long_rows) {
    return InputsOf(RowsJob(absl::StrCat("validation_fraction: 0.2 max_length: 10 ", long_rows)));
  };
  const TrainingInputs cut = inputs_of(""), split = inputs_of("long_rows: SPLIT"),
                       dropped = inputs_of("long_rows: DROP");
  ASSERT_GT(cut.training.truncated_rows, 0);
  EXPECT_EQ(dropped.training.rows(), cut.training.rows() - cut.training.truncated_rows);
  EXPECT_EQ(dropped.training.dropped_rows, cut.training.truncated_rows);
  EXPECT_GT(dropped.training.first_dropped_line, 0);
  EXPECT_EQ(split.training.split_texts, cut.training.truncated_rows);
  EXPECT_EQ(split.training.truncated_rows, 0);
  // Every word is there once, framed like any text, with the label of its text.
  const TrainingInputs whole = InputsOf(RowsJob("validation_fraction: 0.2 max_length: 64"));
  const auto words = [](const TokenizedDataset& rows) {
    std::vector<int32_t> words;
    for (const int32_t id : rows.token_ids) {
      if (id > 3) words.push_back(id);
    }
    return words;
  };
  EXPECT_EQ(words(split.training), words(whole.training));
  for (int64_t row = 0; row < split.training.rows(); ++row) {
    EXPECT_LE(split.training.length(row), 10);
    EXPECT_EQ(split.training.row(row).front(), 2);
    EXPECT_EQ(split.training.row(row).back(), 3);
    const auto text = std::find(whole.training.lines.begin(), whole.training.lines.end(),
                                split.training.lines[static_cast<size_t>(row)]);
    EXPECT_EQ(split.training.labels[static_cast<size_t>(row)],
              whole.training.labels[static_cast<size_t>(text - whole.training.lines.begin())]);
  }
  // Validation rows are those of predictions.
  EXPECT_EQ(split.validation.rows(), cut.validation.rows());
  EXPECT_EQ(split.validation.truncated_rows, cut.validation.truncated_rows);
  EXPECT_EQ(dropped.validation.rows(), cut.validation.rows());

  RecordingSink sink;
  const internal::Ended none = RunAttempt(
      RowsJob(absl::StrCat("validation_fraction: 0 max_length: 4 long_rows: DROP", kFewSteps)),
      &sink);
  EXPECT_EQ(none.end().failure().blame(), v1::Failure::DATA);
  EXPECT_THAT(none.end().failure().message(), HasSubstr("long_rows is DROP"));
}

TEST(TrainingRowsTest, LongDocumentsGoOn) {
  internal::Run run =
      ToyTraining(MakeToyWriter(FreshDirectory("model"), "gpt2", 0),
                  MakeToyTexts(FreshDirectory("dataset"), 1, 5),
                  "language_modeling { layout: PER_DOCUMENT } validation_fraction: 0 max_length: 4 "
                  "long_rows: SPLIT");
  Rewrite(run, "data.txt", "w1 w2 w3 w4 w5 w6\n\nw1 w2 w3 w4\n\nw1 w2 w3\n");
  const TrainingInputs inputs = InputsOf(run);
  // Seven tokens with the end, five of which the last would stand alone, and four.
  std::vector<int32_t> lengths;
  for (int64_t row = 0; row < inputs.training.rows(); ++row) {
    lengths.push_back(inputs.training.length(row));
  }
  EXPECT_THAT(lengths, ElementsAre(4, 3, 4, 4));
  EXPECT_EQ(inputs.training.split_texts, 1);
  EXPECT_EQ(inputs.training.skipped_rows, 0);
}

TEST(TrainingRowsTest, StratifiedValidationKeepsTheSharesOfLabels) {
  const TrainingInputs inputs =
      InputsOf(RowsJob("validation_fraction: 0.25 stratified_validation: true", 120));
  const auto shares = [](const std::vector<int32_t>& labels) {
    std::vector<double> counts(3);
    for (const int32_t label : labels) ++counts[static_cast<size_t>(label)];
    return counts;
  };
  const std::vector<double> training = shares(inputs.training.labels);
  const std::vector<double> validation = shares(inputs.validation.labels);
  for (size_t label = 0; label < 3; ++label) {
    EXPECT_EQ(validation[label], std::round(0.25 * (training[label] + validation[label]))) << label;
  }
}

TEST(TrainingRowsTest, TellsOfTextsThatBothSidesHave) {
  internal::Run run = RowsJob(kFewSteps, 40);
  run.set_validation_dataset_dir(MakeToyDataset(FreshDirectory("validation"), 30, 9));
  const std::string training = *ReadFile(run.dataset_dir() + "/data.jsonl");
  std::vector<std::string> lines = absl::StrSplit(training, '\n', absl::SkipEmpty());
  const std::string file = run.validation_dataset_dir() + "/data.jsonl";
  ASSERT_TRUE(
      WriteFileAtomically(file, absl::StrCat(*ReadFile(file), lines[3], "\n", lines[7], "\n"))
          .ok());
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(run, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  const std::vector<v1::Warning> warnings = sink.Warnings();
  ASSERT_FALSE(warnings.empty());
  EXPECT_EQ(warnings.back().reason(), "ROWS_SHARED");
  EXPECT_THAT(warnings.back().message(), HasSubstr("2 training examples"));
  EXPECT_THAT(warnings.back().message(), HasSubstr("lines 4, 8"));
}

std::map<int64_t, double> LossesOf(const std::string& training, int tokens_per_micro_step) {
  RecordingSink sink;
  RunAttempt(ToyTraining(MakeToyModel(FreshDirectory("model"), 0),
                         MakeToyDataset(FreshDirectory("dataset"), 60, 5),
                         absl::StrCat(training,
                                      " validation_fraction: 0 batch { examples_per_step: 8 "
                                      "tokens_per_micro_step: ",
                                      tokens_per_micro_step, " }", kFewSteps)),
             &sink);
  return sink.Series("loss");
}

TEST(TrainingRowsTest, WeighsLabelsHoweverAStepIsCut) {
  const std::string weighted =
      "text_classification { class_weights { key: 'left' value: 5 } "
      "class_weights { key: 'right' value: 0.5 } }";
  const auto whole = LossesOf(weighted, 4096), single = LossesOf(weighted, 1);
  ASSERT_EQ(whole.size(), 12u);
  for (const auto& [step, loss] : whole) EXPECT_NEAR(single.at(step) / loss, 1, 1e-6);
  const auto plain = LossesOf("", 4096);
  EXPECT_NE(plain.at(1), whole.at(1));
  // Weights of 1 are no weights.
  for (const auto& [step, loss] :
       LossesOf("text_classification { class_weights { key: 'left' value: 1 } }", 4096)) {
    EXPECT_NEAR(loss / plain.at(step), 1, 1e-4);
  }
}

TEST(TrainingRowsTest, BalancedClassesWeighByTheTrainingRows) {
  const TrainingInputs inputs =
      InputsOf(RowsJob("text_classification { balanced_classes: true } validation_fraction: 0.2"));
  std::vector<double> counts(3);
  for (const int32_t label : inputs.training.labels) ++counts[static_cast<size_t>(label)];
  ASSERT_EQ(inputs.class_weights.size(), 3u);
  double sum = 0;
  for (size_t label = 0; label < 3; ++label) {
    EXPECT_FLOAT_EQ(
        inputs.class_weights[label],
        static_cast<float>(static_cast<double>(inputs.training.rows()) / 3 / counts[label]));
    sum += counts[label] * inputs.class_weights[label];
  }
  EXPECT_NEAR(sum / static_cast<double>(inputs.training.rows()), 1, 1e-6);

  RecordingSink sink;
  const internal::Ended ended =
      RunAttempt(RowsJob(absl::StrCat(
                     "text_classification { class_weights { key: 'lefd' value: 2 } }", kFewSteps)),
                 &sink);
  EXPECT_EQ(ended.end().failure().blame(), v1::Failure::USER) << ended.ShortDebugString();
  EXPECT_THAT(ended.end().failure().message(), HasSubstr("did you mean \"left\"?"));
}

// Also from a checkpoint, the figures are those of the weights that the result holds.
TEST(TrainingRowsTest, LeavesTheFiguresOfItsWeights) {
  const std::string training =
      "validation_fraction: 0.2 evaluation { metric: MATTHEWS_CORRELATION every_steps: 4 } "
      "checkpoint { every_steps: 10 } phases { selector { everything: true } learning_rate: 0.005 "
      "steps: 22 }";
  const internal::Run run = RowsJob(training);
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  std::vector<int64_t> steps;
  const v1::EvaluationEnd* best = nullptr;
  const std::vector<v1::EvaluationEnd> evaluations = sink.Evaluations();
  for (const v1::EvaluationEnd& evaluation : evaluations) {
    steps.push_back(evaluation.step());
    if (evaluation.best()) best = &evaluation;
  }
  EXPECT_THAT(steps, ElementsAre(4, 8, 12, 16, 20, 22));
  ASSERT_NE(best, nullptr);
  EXPECT_THAT(best->confusion().labels(), ElementsAre("left", "middle", "right"));
  int64_t rows = 0, hits = 0;
  for (int i = 0; i < 9; ++i) rows += best->confusion().counts(i);
  for (int i = 0; i < 9; i += 4) hits += best->confusion().counts(i);
  EXPECT_DOUBLE_EQ(static_cast<double>(hits) / static_cast<double>(rows),
                   best->values().at("accuracy"));

  const std::string file = "/result/evaluation.json";
  const auto json = ReadJsonFile(run.work_dir() + file);
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ((*json)["step"], best->step());
  EXPECT_EQ((*json)["metric"], "matthews_correlation");
  EXPECT_EQ((*json)["values"]["matthews_correlation"], ended.metrics().at("matthews_correlation"));
  EXPECT_EQ((*json)["confusion"]["labels"][2], "right");
  for (int i = 0; i < 9; ++i) {
    EXPECT_EQ((*json)["confusion"]["counts"][i / 3][i % 3], best->confusion().counts(i));
  }

  internal::Run resumed = RowsJob(training);
  ASSERT_FALSE(sink.checkpoints.empty());
  resumed.set_checkpoint_dir(run.work_dir() + "/" + sink.checkpoints[1].dir());
  RecordingSink again;
  ASSERT_EQ(RunAttempt(resumed, &again).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  EXPECT_EQ(*ReadFile(resumed.work_dir() + file), *ReadFile(run.work_dir() + file));
}

// From any checkpoint: rows, weights of labels and generated answers are the same again.
TEST(TrainingRowsTest, ResumesWithTheSameBits) {
  const std::string steps =
      " checkpoint { every_steps: 5 } phases { selector { everything: true } learning_rate: 0.005 "
      "steps: 18 }";
  const auto classifier = [&] {
    return RowsJob(
        "text_classification { balanced_classes: true } validation_fraction: 0.2 "
        "stratified_validation: true max_length: 10 long_rows: SPLIT "
        "evaluation { every_steps: 4 }" +
        steps);
  };
  const auto writer = [&] {
    return ToyTraining(MakeToyWriter(FreshDirectory("model"), "gpt2", 0.1),
                       MakeToyTexts(FreshDirectory("dataset"), 60, 7),
                       "completion {} validation_fraction: 0.2 max_length: 12 long_rows: DROP "
                       "evaluation { metric: "
                       "DIGIT_MATCH every_steps: 4 max_new_tokens: 6 generated_rows: 8 }" +
                           steps);
  };
  for (const std::function<internal::Run()>& job :
       std::vector<std::function<internal::Run()>>{classifier, writer}) {
    const internal::Run run = job();
    RecordingSink straight;
    const internal::Ended ended = RunAttempt(run, &straight);
    ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
    ASSERT_EQ(straight.checkpoints.size(), 4u);
    for (const internal::CheckpointReady& checkpoint : straight.checkpoints) {
      internal::Run again = job();
      again.set_checkpoint_dir(run.work_dir() + "/" + checkpoint.dir());
      RecordingSink resumed;
      ASSERT_EQ(RunAttempt(again, &resumed).end().outcome(), v1::AttemptEnd::SUCCEEDED);
      EXPECT_EQ(ResultWeights(again), ResultWeights(run)) << checkpoint.step();
      EXPECT_EQ(ReceiptOf(again).history_sha256(), ReceiptOf(run).history_sha256());
      EXPECT_EQ(*ReadFile(again.work_dir() + "/result/evaluation.json"),
                *ReadFile(run.work_dir() + "/result/evaluation.json"));
    }
  }
}

}  // namespace
}  // namespace thaw
