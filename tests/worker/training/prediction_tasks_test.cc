// Predictions of all kinds from assignment to files.
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "absl/strings/match.h"
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

// Changes the numbers, by index, of the fp32 tensor whose name ends so.
void ChangeTensor(const std::string& model, const std::string& name,
                  const std::function<float(size_t, float)>& change) {
  const std::string path = model + "/model.safetensors";
  std::string bytes = *ReadFile(path);
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof(header));
  const nlohmann::json tensors = *ParseJson(bytes.substr(8, header));
  bool found = false;
  for (const auto& [tensor, info] : tensors.items()) {
    if (!absl::EndsWith(tensor, name)) continue;
    found = true;
    const size_t begin = info["data_offsets"][0], end = info["data_offsets"][1];
    for (size_t at = begin; at < end; at += sizeof(float)) {
      float value = 0;
      std::memcpy(&value, bytes.data() + 8 + header + at, sizeof(value));
      value = change((at - begin) / sizeof(float), value);
      std::memcpy(bytes.data() + 8 + header + at, &value, sizeof(value));
    }
  }
  EXPECT_TRUE(found) << name;
  EXPECT_TRUE(WriteFileAtomically(path, bytes).ok());
}

// Part of the word "w5" is not a number in the table of embeddings `name`.
void Damage(const std::string& model, const std::string& name) {
  const nlohmann::json config = *ReadJsonFile(model + "/config.json");
  const size_t width = config.value("hidden_size", config.value("n_embd", 0));
  ASSERT_GT(width, 0);
  ChangeTensor(model, name, [&](size_t i, float old) { return i == 9 * width ? NAN : old; });
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

TEST(Classify, ProbabilitiesOfModelsAreAveraged) {
  const std::string first = ToyClassifier(), second = ToyClassifier();
  ChangeTensor(second, "classifier.bias", [](size_t i, float value) { return value + 0.3f * i; });
  const internal::Run alone = Work(first, kTwoTexts), other = Work(second, kTwoTexts);
  Succeed(alone);
  Succeed(other);
  internal::Run run = Work(first, kTwoTexts);
  run.add_average_with_dirs(second);
  Succeed(run);
  for (int row = 0; row < 2; ++row) {
    const nlohmann::json one = Lines(alone)[row], two = Lines(other)[row], both = Lines(run)[row];
    EXPECT_EQ(one["logits"], both["logits"]);
    for (const char* label : {"LABEL_0", "LABEL_1", "LABEL_2"}) {
      EXPECT_NEAR(both["scores"][label].get<double>(),
                  (one["scores"][label].get<double>() + two["scores"][label].get<double>()) / 2,
                  1e-9);
    }
  }
  // The server lets nothing else through.
  ChangeConfig(second, "id2label", {{"0", "LABEL_2"}, {"1", "LABEL_1"}, {"2", "LABEL_0"}});
  ChangeConfig(second, "label2id", {{"LABEL_2", 0}, {"LABEL_1", 1}, {"LABEL_0", 2}});
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

// Every comparison with NaN is false, so that the most probable token would be that of id 0.
TEST(OutputsThatAreNotNumbers, EndThePredictionAndNameTheRow) {
  const std::string classifier = ToyClassifier(), writer = Recorded("llama");
  Damage(classifier, "word_embeddings.weight");
  Damage(writer, "embed_tokens.weight");
  const std::pair<std::string, std::string> works[] = {
      {classifier, R"(classify {} texts { values: "w1" values: "w4 w5" })"},
      {classifier, R"(embed { pooling: MEAN } texts { values: "w1" values: "w4 w5" })"},
      {writer, R"(score {} texts { values: "w1 w2" values: "w4 w5 w6" })"},
      {writer, R"(generate { max_new_tokens: 1 } texts { values: "w1" values: "w4 w5" })"},
      {writer, R"(generate { max_new_tokens: 1 temperature: 1 top_p: 0.9 }
                  texts { values: "w1" values: "w4 w5" })"}};
  for (const auto& [model, work] : works) {
    const internal::Run run = Work(model, work);
    RecordingSink sink;
    const internal::Ended ended = RunAttempt(run, &sink);
    EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::FAILED) << work;
    EXPECT_EQ(ended.end().failure().reason(), "OUTPUT_NOT_A_NUMBER") << work;
    EXPECT_EQ(ended.end().failure().blame(), v1::Failure::USER) << work;
    EXPECT_THAT(ended.end().failure().message(),
                HasSubstr("row 1: the model's output is not a number"))
        << work;
  }
  const std::string sound = ToyClassifier();
  internal::Run averaged = Work(sound, R"(texts { values: "w1" values: "w4 w5" })");
  averaged.add_average_with_dirs(classifier);
  EXPECT_THAT(FailureOf(averaged), HasSubstr("average_with[0]: row 1: the model's output"));
}

class TickingClock final : public Clock {
 public:
  int64_t WallMicros() const override { return RealClock().WallMicros(); }
  // Every look at it is a minute after the one before.
  int64_t BootMicros() const override { return now_ += 60'000'000; }

 private:
  mutable int64_t now_ = 0;
};

// Prompts may be many and long, and templates slow: no beat is taken for a hang.
TEST(Reading, BeatsForEveryExample) {
  std::string examples, texts;
  for (int i = 0; i < 20; ++i) {
    examples += R"(values { messages { role: "user" content: "w1" } } )";
    texts += R"(values: "w1 w2" )";
  }
  const std::string writer = MakeToyWriter(FreshDirectory("writer"), "llama", 0);
  for (const std::string& work : {"generate { max_new_tokens: 1 } examples { " + examples + "}",
                                  "generate { max_new_tokens: 1 } texts { " + texts + "}",
                                  "score {} texts { " + texts + "}"}) {
    const internal::Run run = Work(writer, work);
    RecordingSink sink;
    Control control;
    const internal::Ended ended = RunAttempt(run, &sink, &control, TickingClock());
    EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
    EXPECT_GE(sink.beats_before_rows, 20) << work;
  }
}

struct CutCase {
  std::string model, cut, whole;  // the work of both tells how they begin
};

std::string WarningsOf(const RecordingSink& sink) {
  std::string all;
  for (const v1::Warning& warning : sink.Warnings()) all += warning.message();
  return all;
}

void EndTextsWith(const std::string& model, const std::string& token) {
  ASSERT_TRUE(
      WriteFileAtomically(model + "/tokenizer_config.json", "{\"eos_token\": \"" + token + "\"}")
          .ok());
}

// What stands before every text, and what ends a source, models have seen with every text.
TEST(LongRows, AreCutAsTransformersCutsThem) {
  const std::string writer = Recorded("llama"), seq2seq = Recorded("t5");
  EndTextsWith(seq2seq, "[SEP]");
  constexpr char kGenerate[] = "generate { max_new_tokens: 8 ignore_end: true } ";
  const auto texts = [](const std::string& text) {
    return "texts { values: \"" + text + "\" values: \"w9\" }";
  };
  const auto example = [](const std::string& prompt, const std::string& completion) {
    return "score {} examples { values { prompt: \"" + prompt + "\" completion: \"" + completion +
           "\" } values { prompt: \"w9\" completion: \" w8\" } }";
  };
  const CutCase cases[] = {
      // [CLS], then the end.
      {writer, kGenerate + texts("w1 w2 w3 w4 w5 w6"), kGenerate + texts("w4 w5 w6")},
      {writer, example("w1 w2 w3 w4 w5", " w6"), example("w4 w5", " w6")},
      {writer, example("w1", " w2 w3 w4 w5"), example("", " w2 w3 w4")},
      {writer, "score {} " + texts("w1 w2 w3 w4 w5"), "score {} " + texts("w1 w2 w3")},
      // [CLS], the beginning, [SEP].
      {seq2seq, kGenerate + texts("w1 w2 w3 w4 w5 w6"), kGenerate + texts("w1 w2")},
      {seq2seq, example("w1 w2 w3 w4 w5", " w6"), example("w1 w2", " w6")}};
  for (const CutCase& one : cases) {
    const internal::Run cut = Work(one.model, "max_length: 4 " + one.cut);
    const internal::Run whole = Work(one.model, one.whole);
    RecordingSink sink;
    const internal::Ended ended = Succeed(cut, &sink);
    EXPECT_EQ(ended.metrics().at("truncated_rows"), 1) << one.cut;
    EXPECT_EQ(WarningsOf(sink), "1 of 2 rows are longer than max_length and were cut");
    EXPECT_EQ(Succeed(whole).metrics().at("truncated_rows"), 0);
    EXPECT_EQ(Lines(cut), Lines(whole)) << one.cut;
  }
}

// Training puts the end-of-text token behind a source whose tokenizer does not.
TEST(Sources, EndAsInTraining) {
  const std::string model = Recorded("t5");
  EndTextsWith(model, "[SEP]");
  const std::string task =
      R"(generate { max_new_tokens: 2 ignore_end: true } texts { values: "w1 w2" })";
  EXPECT_EQ(Succeed(Work(model, task)).metrics().at("prompt_tokens"), 4) << "[CLS] w1 w2 [SEP]";
  EndTextsWith(model, "w8");
  EXPECT_EQ(Succeed(Work(model, task)).metrics().at("prompt_tokens"), 5) << "and w8";
}

TEST(LongRows, AConversationKeepsItsFirstToken) {
  const std::string model = MakeToyWriter(FreshDirectory("writer"), "llama", 0);
  ASSERT_TRUE(WriteFileAtomically(model + "/tokenizer_config.json",
                                  R"({"eos_token": "[SEP]", "bos_token": "[CLS]"})")
                  .ok());
  ASSERT_TRUE(
      WriteFileAtomically(model + "/chat_template.jinja",
                          "{{ bos_token }}{% for m in messages %} {{ m.content }}{% endfor %}")
          .ok());
  constexpr char kGenerate[] = "generate { max_new_tokens: 8 ignore_end: true } ";
  const internal::Run cut =
      Work(model,
           std::string("max_length: 4 ") + kGenerate +
               R"(examples { values { messages { role: "user" content: "w1 w2 w3 w4 w5 w6" } } })");
  const internal::Run whole =
      Work(model, std::string(kGenerate) + R"(texts { values: "[CLS] w4 w5 w6" })");
  EXPECT_EQ(Succeed(cut).metrics().at("prompt_tokens"), 4);
  Succeed(whole);
  EXPECT_EQ(Lines(cut), Lines(whole));
}

// A second attempt on the next day answers the same.
TEST(Templates, TellTheTimeOfTheJob) {
  const std::string model = MakeToyWriter(FreshDirectory("writer"), "llama", 0);
  ASSERT_TRUE(
      WriteFileAtomically(model + "/chat_template.jinja", "w{{ strftime_now('%d') }} w1").ok());
  constexpr char kGenerate[] = "generate { max_new_tokens: 8 ignore_end: true } ";
  internal::Run told =
      Work(model, std::string(kGenerate) +
                      R"(examples { values { messages { role: "user" content: "w1" } } })");
  told.mutable_assignment()->mutable_create_time()->set_seconds(24 * 86400);
  const internal::Run written =
      Work(model, std::string(kGenerate) + R"(texts { values: "w25 w1" })");
  Succeed(told);
  Succeed(written);
  EXPECT_EQ(Lines(told), Lines(written));
}

TEST(WarmModels, AreUsedAgainAndReplaced) {
  const std::string first = ToyClassifier(), second = Recorded("bert-regression");
  WarmModel warm;
  Control control;
  RecordingSink sink;
  const AttemptContext context{.sink = &sink, .control = &control, .clock = &RealClock()};
  const auto predict = [&](const std::string& directory, const std::string& key) {
    internal::Run run = Work(directory, kTwoTexts);
    run.set_warm_key(key);
    EXPECT_EQ(RunPrediction(run, context, &warm).end().outcome(), v1::AttemptEnd::SUCCEEDED);
    return Lines(run);
  };
  const auto lines = predict(first, "a");
  const Model* const model = warm.loaded.model.get();
  // Nothing is read again.
  EXPECT_EQ(predict("/nowhere", "a"), lines);
  EXPECT_EQ(warm.loaded.model.get(), model);
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
