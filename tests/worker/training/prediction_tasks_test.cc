// Predictions of all kinds from assignment to files.
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_split.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "tests/worker/model/model_fixture.h"
#include "tests/worker/training/toy_job.h"
#include "worker/model/tensor_view.h"
#include "worker/training/prediction_run.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr char kTwoTexts[] = R"(texts { values: "w1 w2 w3" values: "w4" })";

std::vector<nlohmann::json> Lines(const internal::Run& run) {
  const auto text = ReadFile(run.work_dir() + "/result/predictions.jsonl");
  EXPECT_TRUE(text.ok()) << text.status();
  std::vector<nlohmann::json> lines;
  for (const absl::string_view line : absl::StrSplit(*text, '\n', absl::SkipEmpty())) {
    lines.push_back(*ParseJson(line));
  }
  return lines;
}

// With the task that `prediction` names, or classify.
internal::Run Work(const std::string& model, const std::string& prediction) {
  internal::Run run = ToyPrediction(model, "", "");
  v1::Prediction* spec = run.mutable_assignment()->mutable_spec()->mutable_prediction();
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(prediction, spec)) << prediction;
  if (spec->task_case() == v1::Prediction::TASK_NOT_SET) spec->mutable_classify();
  return run;
}

internal::Ended Succeed(const internal::Run& run, RecordingSink* sink) {
  const internal::Ended ended = RunAttempt(run, sink);
  EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  return ended;
}
internal::Ended Succeed(const internal::Run& run) {
  RecordingSink sink;
  return Succeed(run, &sink);
}

std::string FailureOf(const internal::Run& run) {
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  EXPECT_EQ(ended.end().failure().blame(), v1::Failure::USER) << ended.ShortDebugString();
  return ended.end().failure().message();
}

std::string ToyClassifier() { return MakeToyModel(FreshDirectory("model"), 0); }

// A recorded model with the toy tokenizer.
std::string Recorded(const std::string& name) {
  const std::string directory = FreshDirectory(name), source = FixtureDirectory(name);
  for (const char* file : {"config.json", "model.safetensors"}) {
    EXPECT_TRUE(WriteFileAtomically(directory + "/" + file, *ReadFile(source + "/" + file)).ok());
  }
  const std::string toy = ToyClassifier();
  EXPECT_TRUE(
      WriteFileAtomically(directory + "/tokenizer.json", *ReadFile(toy + "/tokenizer.json")).ok());
  return directory;
}

void ChangeConfig(const std::string& model, const std::string& key, const nlohmann::json& value) {
  nlohmann::json config = *ReadJsonFile(model + "/config.json");
  config[key] = value;
  EXPECT_TRUE(WriteFileAtomically(model + "/config.json", config.dump()).ok());
}

double Logistic(double x) { return 1 / (1 + std::exp(-x)); }

TEST(Classify, SeveralLabelsAreDecidedEachByItself) {
  const std::string model = ToyClassifier();
  ChangeConfig(model, "problem_type", "multi_label_classification");
  const internal::Run run = Work(model, kTwoTexts);
  Succeed(run);
  for (const nlohmann::json& line : Lines(run)) {
    std::vector<std::string> expected;
    for (int i = 0; i < 3; ++i) {
      const std::string label = "LABEL_" + std::to_string(i);
      const double score = line["scores"][label];
      EXPECT_NEAR(score, Logistic(line["logits"][i]), 1e-9);
      if (score >= 0.5) expected.push_back(label);
    }
    EXPECT_EQ(line["labels"].get<std::vector<std::string>>(), expected);
  }
}

TEST(Classify, ARegressionGivesANumberAndItsError) {
  const std::string model = Recorded("bert-regression");
  const std::string dataset = FreshDirectory("dataset");
  ASSERT_TRUE(
      WriteFileAtomically(dataset + "/rows.jsonl",
                          "{\"text\":\"w1 w2\",\"label\":0.5}\n{\"text\":\"w3\",\"label\":-1}\n")
          .ok());
  internal::Run run = Work(model, "dataset: 'd'");
  run.set_dataset_dir(dataset);
  const internal::Ended ended = Succeed(run);
  const std::vector<nlohmann::json> lines = Lines(run);
  ASSERT_THAT(lines, SizeIs(2));
  const double a = lines[0]["value"].get<double>() - 0.5, b = lines[1]["value"].get<double>() + 1;
  EXPECT_NEAR(ended.metrics().at("mean_squared_error"), (a * a + b * b) / 2, 1e-5);
}

TEST(Classify, ProbabilitiesOfModelsAreAveragedByLabel) {
  const std::string first = ToyClassifier(), second = ToyClassifier();
  // The same weights under other names: its LABEL_2 is our LABEL_0.
  ChangeConfig(second, "id2label", {{"0", "LABEL_2"}, {"1", "LABEL_1"}, {"2", "LABEL_0"}});
  ChangeConfig(second, "label2id", {{"LABEL_2", 0}, {"LABEL_1", 1}, {"LABEL_0", 2}});
  const internal::Run alone = Work(first, kTwoTexts);
  Succeed(alone);
  internal::Run run = Work(first, kTwoTexts);
  run.add_average_with_dirs(second);
  Succeed(run);
  for (int row = 0; row < 2; ++row) {
    const nlohmann::json one = Lines(alone)[row], both = Lines(run)[row];
    EXPECT_EQ(one["logits"], both["logits"]);
    for (int i = 0; i < 3; ++i) {
      const std::string label = "LABEL_" + std::to_string(i),
                        other = "LABEL_" + std::to_string(2 - i);
      EXPECT_NEAR(both["scores"][label].get<double>(),
                  (one["scores"][label].get<double>() + one["scores"][other].get<double>()) / 2,
                  1e-9);
    }
  }
  ChangeConfig(second, "id2label", {{"0", "x"}, {"1", "LABEL_1"}, {"2", "LABEL_0"}});
  ChangeConfig(second, "label2id", {{"x", 0}, {"LABEL_1", 1}, {"LABEL_0", 2}});
  EXPECT_THAT(FailureOf(run), HasSubstr("average_with[0]"));
}

TEST(Embed, VectorsAreInRowOrderWhateverTheLengths) {
  const std::string model = ToyClassifier();
  internal::Run run = Work(model, R"(embed { pooling: MEAN normalize: false }
      texts { values: "w1" values: "w2 w3 w4 w5 w6" values: "w7 w8" })");
  Succeed(run);
  const auto file = SafetensorsFile::Open(run.work_dir() + "/result/embeddings.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_THAT((*file)->tensors(), SizeIs(1));
  const torch::Tensor all = ViewTensor(*file, (*file)->tensors()[0]).clone();
  EXPECT_EQ((*file)->tensors()[0].name, "embeddings");
  const auto loaded = LoadModel(model, std::nullopt);
  ASSERT_TRUE(loaded.ok());
  const std::vector<std::vector<int64_t>> ids = {
      {2, 5, 3}, {2, 6, 7, 8, 9, 10, 3}, {2, 11, 12, 3}};  // [CLS] w… [SEP]
  for (size_t row = 0; row < ids.size(); ++row) {
    const auto length = static_cast<int32_t>(ids[row].size());
    RunContext context;
    context.all_rows = true;
    const Rows rows = RowsOf(**loaded,
                             {.token_ids = torch::tensor(at::ArrayRef<int64_t>(ids[row])),
                              .token_type_ids = {},
                              .cu_seqlens = {0, length},
                              .target_ids = {},
                              .target_bounds = {}},
                             context);
    const torch::Tensor expected = (*loaded)->Hidden(rows, context).mean(0);
    EXPECT_LT(MaxDifference(all[static_cast<int64_t>(row)], expected), 1e-5) << row;
  }
}

TEST(ScoreTexts, TokensTextsAndTheWholeAgree) {
  const std::string model = Recorded("gpt2");
  const internal::Run run = Work(model, R"(score { per_token: true }
      examples { values { prompt: "w1 w2" completion: " w3 w4" } values { prompt: "w5" completion: " w6" } })");
  const internal::Ended ended = Succeed(run);
  double sum = 0;
  for (const nlohmann::json& line : Lines(run)) {
    double of_row = 0;
    for (const nlohmann::json& value : line["token_log_probabilities"]) {
      of_row += value.get<double>();
    }
    EXPECT_NEAR(of_row, line["log_probability"].get<double>(), 1e-6);
    EXPECT_NEAR(std::exp(-of_row / line["tokens"].get<double>()), line["perplexity"].get<double>(),
                1e-6);
    sum += of_row;
  }
  EXPECT_EQ(Lines(run)[0]["tokens"], 2);
  EXPECT_THAT(Lines(run)[0]["token_texts"].get<std::vector<std::string>>(), SizeIs(2));
  EXPECT_NEAR(ended.metrics().at("perplexity"), std::exp(-sum / 3), 1e-6);
  EXPECT_THAT(FailureOf(Work(ToyClassifier(), R"(score {} texts { values: "w1" })")),
              HasSubstr("writes no text"));
}

TEST(GenerateTexts, LiveTextIsThatOfTheResult) {
  const std::string model = Recorded("llama");
  const internal::Run run =
      Work(model, R"(generate { max_new_tokens: 12 temperature: 1 ignore_end: true }
                texts { values: "w1 w2 w3" values: "w4" values: "w5 w6" })");
  RecordingSink sink;
  const internal::Ended ended = Succeed(run, &sink);
  std::vector<std::string> live(3);
  int done = 0;
  for (const v1::Event& event : sink.events) {
    if (!event.has_generated_text()) continue;
    live[static_cast<size_t>(event.generated_text().row())] += event.generated_text().text();
    done += event.generated_text().done();
  }
  EXPECT_EQ(done, 3);
  const std::vector<nlohmann::json> lines = Lines(run);
  for (size_t row = 0; row < 3; ++row) {
    EXPECT_EQ(lines[row]["text"], live[row]);
    EXPECT_EQ(lines[row]["tokens"], 12);
    EXPECT_EQ(lines[row]["finish_reason"], "length");
  }
  EXPECT_EQ(ended.metrics().at("tokens"), 36);
}

TEST(GenerateTexts, AnEncoderDecoderWritesToo) {
  const internal::Run run =
      Work(Recorded("t5"), R"(generate { max_new_tokens: 5 } texts { values: "w1 w2 w3" })");
  Succeed(run);
  EXPECT_LE(Lines(run)[0]["tokens"].get<int>(), 5);
}

TEST(GenerateTexts, StopsAndPausesInTheMiddle) {
  const std::string model = Recorded("llama");
  for (const bool pause : {true, false}) {
    Control control;
    RecordingSink sink;
    pause ? control.RequestPause() : control.RequestStop();
    const internal::Run run = Work(
        model, R"(generate { max_new_tokens: 30000 ignore_end: true } texts { values: "w1" })");
    EXPECT_EQ(RunAttempt(run, &sink, &control).end().outcome(),
              pause ? v1::AttemptEnd::PAUSED : v1::AttemptEnd::STOPPED);
    EXPECT_FALSE(Exists(run.work_dir() + "/result/predictions.jsonl"));
  }
}

TEST(GenerateTexts, ConversationsNeedATemplate) {
  const internal::Run run = Work(Recorded("llama"), R"(generate {}
      examples { values { messages { role: "user" content: "w1" } } })");
  EXPECT_THAT(FailureOf(run), HasSubstr("no chat template"));
}

TEST(KeptModels, AreUsedAgainAndReplaced) {
  const std::string first = ToyClassifier(), second = Recorded("bert-regression");
  KeptModel kept;
  Control control;
  RecordingSink sink;
  const AttemptContext context{.sink = &sink, .control = &control, .clock = &RealClock()};
  const auto predict = [&](const std::string& directory, const std::string& digest) {
    internal::Run run = Work(directory, kTwoTexts);
    run.mutable_assignment()->mutable_model()->set_digest(digest);
    EXPECT_EQ(RunPrediction(run, context, &kept).end().outcome(), v1::AttemptEnd::SUCCEEDED);
    return Lines(run);
  };
  const auto lines = predict(first, "a");
  const Model* const model = kept.loaded.model.get();
  // Nothing is read again.
  EXPECT_EQ(predict("/nowhere", "a"), lines);
  EXPECT_EQ(kept.loaded.model.get(), model);
  EXPECT_TRUE(predict(second, "b")[0].contains("value"));
  EXPECT_EQ(predict(first, "a"), lines);
}

TEST(CheckpointsAsModels, AnswerAsTheResultWould) {
  const std::string base = ToyClassifier();
  const std::string dataset = MakeToyDataset(FreshDirectory("dataset"), 40, 3);
  const internal::Run training = ToyTraining(base, dataset, R"(validation_fraction: 0.2
      phases { selector { everything: true } learning_rate: 0.01 steps: 6 }
      checkpoint { every_steps: 100 } evaluation { keep_best: false })");
  RecordingSink sink;
  const internal::Ended trained = RunAttempt(training, &sink);
  ASSERT_EQ(trained.end().outcome(), v1::AttemptEnd::SUCCEEDED) << trained.ShortDebugString();
  ASSERT_FALSE(sink.checkpoints.empty());
  const internal::Run from_result = Work(training.work_dir() + "/result", kTwoTexts);
  Succeed(from_result);
  internal::Run from_checkpoint = Work(base, kTwoTexts);
  from_checkpoint.set_checkpoint_dir(training.work_dir() + "/" + sink.checkpoints.back().dir());
  from_checkpoint.mutable_assignment()->mutable_spec()->mutable_prediction()->set_weights(
      v1::Prediction::LAST);
  v1::TrainingBehind* behind = from_checkpoint.mutable_assignment()->mutable_training_behind();
  *behind->mutable_spec() = training.assignment().spec();
  for (const char* label : {"left", "middle", "right"}) behind->add_labels(label);
  Succeed(from_checkpoint);
  EXPECT_EQ(Lines(from_checkpoint), Lines(from_result));
}

// The best came of the head alone; what a later phase trained is the base's in them.
TEST(CheckpointsAsModels, TheBestWeightsAreThoseOfTheResultAlsoInALaterPhase) {
  const std::string base = ToyClassifier();
  const internal::Run training =
      ToyTraining(base, MakeToyDataset(FreshDirectory("dataset"), 60, 3), R"(
          validation_fraction: 0.3 max_grad_norm: 0
          phases { selector { head_only: true } learning_rate: 0.02 steps: 6 }
          phases { selector { everything: true } learning_rate: 0.5 steps: 3 }
          checkpoint { every_steps: 1 } evaluation { metric: LOSS })");
  RecordingSink sink;
  const internal::Ended trained = RunAttempt(training, &sink);
  ASSERT_EQ(trained.end().outcome(), v1::AttemptEnd::SUCCEEDED) << trained.ShortDebugString();
  ASSERT_EQ(trained.metrics().at("best_step"), 6);
  const internal::Run from_result = Work(training.work_dir() + "/result", kTwoTexts);
  Succeed(from_result);
  internal::Run from_checkpoint = Work(base, kTwoTexts);
  from_checkpoint.set_checkpoint_dir(training.work_dir() + "/" + sink.checkpoints.back().dir());
  v1::TrainingBehind* behind = from_checkpoint.mutable_assignment()->mutable_training_behind();
  *behind->mutable_spec() = training.assignment().spec();
  for (const char* label : {"left", "middle", "right"}) behind->add_labels(label);
  Succeed(from_checkpoint);
  EXPECT_EQ(Lines(from_checkpoint), Lines(from_result));
}

}  // namespace
}  // namespace thaw
