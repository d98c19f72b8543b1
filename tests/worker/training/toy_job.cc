#include "tests/worker/training/toy_job.h"

#include <google/protobuf/text_format.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "worker/training/plan_run.h"
#include "worker/training/prediction_run.h"

namespace thaw {
namespace {

constexpr int kWords = 190;
constexpr int kSpecialTokens = 4;  // [PAD] [UNK] [CLS] [SEP]
constexpr int kWordsPerLabel = 10;
const char* const kLabels[] = {"left", "middle", "right"};

void Write(const std::string& path, const std::string& bytes) {
  const absl::Status status = WriteFileAtomically(path, bytes);
  ASSERT_TRUE(status.ok()) << status;
}

std::vector<std::string> ToyWords() {
  std::vector<std::string> words;
  for (int i = 0; i < kWords; ++i) words.push_back(absl::StrCat("w", i));
  return words;
}

// `frame`: what goes around a text, "" nothing, "A" [SEP] behind it, "pair" [CLS] and [SEP].
std::string ToyTokenizer(const std::string& frame,
                         const std::vector<std::string>& words = ToyWords()) {
  nlohmann::json vocabulary = {{"[PAD]", 0}, {"[UNK]", 1}, {"[CLS]", 2}, {"[SEP]", 3}};
  for (size_t i = 0; i < words.size(); ++i) vocabulary[words[i]] = kSpecialTokens + i;
  const auto special = [](const char* token, int id) {
    return nlohmann::json{{"id", token}, {"ids", {id}}, {"tokens", {token}}};
  };
  const auto part = [](const char* kind, const char* id, int type) {
    return nlohmann::json{{kind, {{"id", id}, {"type_id", type}}}};
  };
  nlohmann::json tokenizer = {
      {"version", "1.0"},      {"truncation", nullptr},
      {"padding", nullptr},    {"added_tokens", nlohmann::json::array()},
      {"normalizer", nullptr}, {"pre_tokenizer", {{"type", "WhitespaceSplit"}}},
      {"decoder", nullptr}};
  nlohmann::json single = {part("Sequence", "A", 0), part("SpecialToken", "[SEP]", 0)};
  if (frame == "pair") single.insert(single.begin(), part("SpecialToken", "[CLS]", 0));
  tokenizer["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single", single},
      {"pair",
       {part("SpecialToken", "[CLS]", 0), part("Sequence", "A", 0),
        part("SpecialToken", "[SEP]", 0), part("Sequence", "B", 1),
        part("SpecialToken", "[SEP]", 1)}},
      {"special_tokens", {{"[CLS]", special("[CLS]", 2)}, {"[SEP]", special("[SEP]", 3)}}}};
  if (frame.empty()) tokenizer["post_processor"] = nullptr;
  tokenizer["model"] = {{"type", "WordLevel"}, {"vocab", vocabulary}, {"unk_token", "[UNK]"}};
  return tokenizer.dump();
}

template <typename Message>
void ParseText(const std::string& text, Message* message) {
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(text, message)) << text;
}

internal::Run ToyRun(const std::string& model_dir, const std::string& dataset_dir) {
  internal::Run run;
  run.set_model_dir(model_dir);
  run.set_dataset_dir(dataset_dir);
  run.set_work_dir(FreshDirectory("work"));
  run.mutable_assignment()->set_attempt(1);
  return run;
}

}  // namespace

std::string FreshDirectory(const std::string& name) {
  static int count = 0;
  const std::string path =
      absl::StrCat(::testing::TempDir(), "/thaw-", getpid(), "-", ++count, "-", name);
  EXPECT_TRUE(RemoveTree(path).ok());
  EXPECT_TRUE(MakeDirectories(path).ok());
  return path;
}

std::string MakeToyModel(const std::string& directory, double dropout) {
  const std::string source = absl::StrCat(getenv("THAW_TEST_DATA"), "/models/bert-cls");
  auto config = ReadJsonFile(source + "/config.json");
  EXPECT_TRUE(config.ok()) << config.status();
  (*config)["hidden_dropout_prob"] = dropout;
  (*config)["attention_probs_dropout_prob"] = dropout;
  Write(directory + "/config.json", config->dump());
  auto weights = ReadFile(source + "/model.safetensors");
  EXPECT_TRUE(weights.ok()) << weights.status();
  Write(directory + "/model.safetensors", *weights);
  Write(directory + "/tokenizer.json", ToyTokenizer("pair"));
  Write(directory + "/vocab.txt", "[PAD]\n");
  return directory;
}

std::string MakeToyDataset(const std::string& directory, int rows, unsigned seed) {
  std::mt19937 random(seed);
  std::string lines;
  for (int row = 0; row < rows; ++row) {
    const unsigned label = random() % 3;
    std::string text;
    const unsigned words = 3 + random() % 20;
    for (unsigned i = 0; i < words; ++i) {
      const unsigned word = random() % 3 == 0 ? label * kWordsPerLabel + random() % kWordsPerLabel
                                              : random() % kWords;
      absl::StrAppend(&text, i == 0 ? "w" : " w", word);
    }
    absl::StrAppend(&lines, nlohmann::json{{"text", text}, {"label", kLabels[label]}}.dump(), "\n");
  }
  Write(directory + "/data.jsonl", lines);
  return directory;
}

std::string MakeToyWriter(const std::string& directory, const std::string& fixture,
                          double dropout) {
  const std::string source = absl::StrCat(getenv("THAW_TEST_DATA"), "/models/", fixture);
  auto config = ReadJsonFile(source + "/config.json");
  EXPECT_TRUE(config.ok()) << config.status();
  for (const char* field :
       {"attn_pdrop", "embd_pdrop", "resid_pdrop", "attention_dropout", "dropout_rate"}) {
    if (config->contains(field)) (*config)[field] = dropout;
  }
  Write(directory + "/config.json", config->dump());
  auto weights = ReadFile(source + "/model.safetensors");
  EXPECT_TRUE(weights.ok()) << weights.status();
  Write(directory + "/model.safetensors", *weights);
  Write(directory + "/tokenizer.json", ToyTokenizer(fixture == "t5" ? "A" : ""));
  Write(directory + "/tokenizer_config.json", R"({"eos_token": "[SEP]"})");
  Write(directory + "/generation_config.json", R"({"eos_token_id": 3})");
  Write(directory + "/chat_template.jinja",
        "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' [SEP] ' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}");
  return directory;
}

std::string MakeToyLstm(const std::string& directory, double drop_mult) {
  const nlohmann::json config = {
      {"model_type", "awd_lstm"}, {"vocab_size", kSpecialTokens + kWords},
      {"hidden_size", 12},        {"lstm_size", 20},
      {"num_hidden_layers", 2},   {"head_hidden_size", 8},
      {"drop_mult", drop_mult}};
  Write(directory + "/config.json", config.dump());
  Write(directory + "/tokenizer.json", ToyTokenizer(""));
  Write(directory + "/tokenizer_config.json", R"({"eos_token": "[SEP]"})");
  return directory;
}

std::string MakeToyTokenizer(const std::string& directory, const std::vector<std::string>& words) {
  Write(directory + "/tokenizer.json", ToyTokenizer("", words));
  Write(directory + "/tokenizer_config.json", R"({"eos_token": "[SEP]", "pad_token": "[PAD]"})");
  return directory;
}

std::string MakeToyTexts(const std::string& directory, int rows, unsigned seed) {
  std::mt19937 random(seed);
  std::string lines;
  for (int row = 0; row < rows; ++row) {
    const unsigned begin = random() % 100, by = 1 + random() % 2, words = 4 + random() % 12;
    std::vector<std::string> parts(2);  // two words, and the rest
    for (unsigned i = 0; i < words; ++i) {
      absl::StrAppend(&parts[i < 2 ? 0 : 1], i == 0 ? "w" : " w", begin + i * by);
    }
    nlohmann::json line = {{"text", parts[0] + parts[1]},
                           {"prompt", parts[0]},
                           {"completion", parts[1]},
                           {"source", parts[0] + parts[1]},
                           {"target", parts[0]},
                           {"number", static_cast<double>(begin) / 50},
                           {"labels", nlohmann::json::array()}};
    line["messages"] = {{{"role", "user"}, {"content", parts[0]}},
                        {{"role", "assistant"}, {"content", parts[1].substr(1)}}};
    if (begin % 2 == 0) line["labels"].push_back("even");
    if (begin < 50) line["labels"].push_back("low");
    if (by == 2) line["labels"].push_back("two");
    absl::StrAppend(&lines, line.dump(), "\n");
  }
  Write(directory + "/data.jsonl", lines);
  return directory;
}

internal::Run ToyTraining(const std::string& model_dir, const std::string& dataset_dir,
                          const std::string& training) {
  internal::Run run = ToyRun(model_dir, dataset_dir);
  v1::Training* spec = run.mutable_assignment()->mutable_spec()->mutable_training();
  ParseText(training, spec);
  if (spec->task_case() == v1::Training::TASK_NOT_SET) spec->mutable_text_classification();
  if (!spec->has_seed()) spec->set_seed(42);
  v1::Batch* batch = spec->mutable_batch();
  if (batch->examples_per_step() == 0) batch->set_examples_per_step(8);
  if (batch->tokens_per_micro_step() == 0) batch->set_tokens_per_micro_step(128);
  return run;
}

internal::Run ToyPrediction(const std::string& model_dir, const std::string& dataset_dir,
                            const std::string& prediction) {
  internal::Run run = ToyRun(model_dir, dataset_dir);
  v1::Prediction* spec = run.mutable_assignment()->mutable_spec()->mutable_prediction();
  ParseText(prediction, spec);
  spec->mutable_classify();
  return run;
}

void RecordingSink::Beat(const v1::Progress& new_progress, double median_step_seconds) {
  ++beats;
  if (new_progress.rows_total() == 0) ++beats_before_rows;
  progress = new_progress;
}

void RecordingSink::Emit(const v1::Event& event) {
  events.push_back(event);
  for (const v1::MetricPoint& point : event.metric_points().points()) {
    if (on_point && point.values(0).name() == "loss") on_point(point);
  }
}

void RecordingSink::CheckpointReady(const internal::CheckpointReady& checkpoint) {
  checkpoints.push_back(checkpoint);
}

std::map<int64_t, double> RecordingSink::Series(const std::string& name,
                                                const std::string& group) const {
  std::map<int64_t, double> series;
  for (const v1::Event& event : events) {
    for (const v1::MetricPoint& point : event.metric_points().points()) {
      for (const v1::MetricValue& value : point.values()) {
        if (value.name() == name && value.group() == group) series[point.step()] = value.value();
      }
    }
  }
  return series;
}

std::vector<std::string> RecordingSink::LogLines() const {
  std::vector<std::string> lines;
  for (const v1::Event& event : events) {
    if (event.has_log_line()) lines.push_back(event.log_line().text());
  }
  return lines;
}

std::vector<v1::PhaseStart> RecordingSink::Phases() const {
  std::vector<v1::PhaseStart> result;
  for (const v1::Event& event : events) {
    if (event.has_phase_start()) result.push_back(event.phase_start());
  }
  return result;
}

std::vector<v1::EvaluationEnd> RecordingSink::Evaluations() const {
  std::vector<v1::EvaluationEnd> result;
  for (const v1::Event& event : events) {
    if (event.has_evaluation_end()) result.push_back(event.evaluation_end());
  }
  return result;
}

std::vector<v1::Warning> RecordingSink::Warnings() const {
  std::vector<v1::Warning> result;
  for (const v1::Event& event : events) {
    if (event.has_warning()) result.push_back(event.warning());
  }
  return result;
}

ScratchDisk DiskWith(int64_t free_bytes) {
  ScratchDisk disk;
  disk.free_bytes = [free_bytes](const std::string&) { return free_bytes; };
  return disk;
}

internal::Ended RunAttempt(const internal::Run& run, RecordingSink* sink, Control* control,
                           const Clock& clock, const ScratchDisk& disk) {
  const AttemptContext context{
      .sink = sink, .control = control, .clock = &clock, .point_interval_seconds = 0, .disk = disk};
  const v1::JobSpec& spec = run.assignment().spec();
  if (spec.has_plan()) return RunPlan(run, context);
  return spec.has_training() ? RunTraining(run, context) : RunPrediction(run, context);
}

internal::Ended RunAttempt(const internal::Run& run, RecordingSink* sink) {
  Control control;
  return RunAttempt(run, sink, &control);
}

std::string ResultWeights(const internal::Run& run) {
  auto bytes = ReadFile(run.work_dir() + "/result/model.safetensors");
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  return bytes.ok() ? *bytes : std::string();
}

internal::Receipt ReceiptOf(const internal::Run& run) {
  const auto json = ReadFile(run.work_dir() + "/result/receipt.json");
  EXPECT_TRUE(json.ok()) << json.status();
  internal::Receipt receipt;
  EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(*json, &receipt).ok());
  return receipt;
}

}  // namespace thaw
