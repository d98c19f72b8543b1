// Trainings on a base model in NF4: what they learn, what they leave, what they refuse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/files.h"
#include "nlohmann/json.hpp"
#include "tests/worker/training/toy_job.h"
#include "worker/model/model.h"
#include "worker/model/nf4.h"

namespace thaw {
namespace {

using ::testing::AllOf;
using ::testing::DoubleNear;
using ::testing::HasSubstr;
using ::testing::Pointwise;
namespace fs = std::filesystem;

constexpr char kInNf4[] = "base_weights: NF4 ";
constexpr char kPart[] =
    "phases { selector { kind: ADDED_PARTS } learning_rate: 0.01 epochs: 2 } validation_fraction: "
    "0.2 ";

// With dropout in the part; DoRA reads the lengths of the base's rows too.
std::string LoraOf(const std::string& more) {
  return absl::StrCat("added_part { lora { rank: 4 alpha: 8 dropout: 0.2 ", more, " } } ");
}

// A model directory with the weights that a model in NF4 computes with, in fp32.
std::string DequantisedDirectory(const std::string& from) {
  const std::string to = FreshDirectory("dequantised");
  fs::copy(from, to, fs::copy_options::overwrite_existing | fs::copy_options::recursive);
  const auto model = LoadModel(from, std::nullopt, {.nf4 = true}).value();
  model->Dequantise();
  EXPECT_TRUE(SaveModel(*model, to).ok());
  return to;
}

// A writer whose weights are those that bitsandbytes has recorded.
std::string RecordedNf4Writer() {
  const std::string to = MakeToyWriter(FreshDirectory("recorded"), "llama", 0);
  const std::string from = absl::StrCat(std::getenv("THAW_TEST_DATA"), "/nf4/llama");
  for (const char* const file : {"/config.json", "/model.safetensors"}) {
    fs::copy_file(from + file, to + file, fs::copy_options::overwrite_existing);
  }
  return to;
}

internal::Ended Succeeded(const internal::Run& run, RecordingSink* sink) {
  internal::Ended ended = RunAttempt(run, sink);
  EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  return ended;
}

// What a training that fails says.
std::string RefusalOf(const internal::Run& run) {
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::FAILED);
  return ended.end().ShortDebugString();
}

std::string AdapterBytes(const internal::Run& run) {
  return ReadFile(run.work_dir() + "/result/adapter_model.safetensors").value();
}

// The same labels in every line of predictions, by logits that differ as merging rounds.
void ExpectAlike(const std::string& found, const std::string& merged) {
  const auto lines_of = [](const std::string& text) -> std::vector<std::string> {
    return absl::StrSplit(text, '\n', absl::SkipEmpty());
  };
  const std::vector<std::string> lines = lines_of(found), merged_lines = lines_of(merged);
  ASSERT_EQ(lines.size(), 100u);
  ASSERT_EQ(merged_lines.size(), lines.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    const auto one = nlohmann::json::parse(lines[i]);
    const auto other = nlohmann::json::parse(merged_lines[i]);
    EXPECT_EQ(one["row"], other["row"]);
    EXPECT_EQ(one["label"], other["label"]) << lines[i];
    EXPECT_THAT(one["logits"].get<std::vector<double>>(),
                Pointwise(DoubleNear(1e-5), other["logits"].get<std::vector<double>>()))
        << lines[i];
  }
}

class Nf4Training : public ::testing::Test {
 protected:
  Nf4Training()
      : model_(MakeToyModel(FreshDirectory("model"), 0.1)),
        dataset_(MakeToyDataset(FreshDirectory("dataset"), 100, 5)),
        texts_(MakeToyTexts(FreshDirectory("texts"), 60, 3)) {}

  const std::string model_, dataset_, texts_;
};

// On the base in NF4 the very bits are learnt that are learnt on one in fp32 with its weights.
TEST_F(Nf4Training, LearnsWhatItLearnsOnTheDequantisedBase) {
  const struct {
    std::string model, dataset, work;
  } cases[] = {
      {model_, dataset_, LoraOf("target_modules: \"query\" target_modules: \"output.dense\"")},
      {MakeToyWriter(FreshDirectory("llama"), "llama", 0), texts_,
       "completion {} " + LoraOf("target_modules: \"q_proj\" target_modules: \"up_proj\"")},
      {MakeToyWriter(FreshDirectory("gpt2"), "gpt2", 0.1), texts_,
       "language_modeling {} " + LoraOf("target_modules: \"c_attn\" target_modules: \"c_proj\"")},
      {MakeToyWriter(FreshDirectory("dora"), "llama", 0), texts_,
       "completion {} " + LoraOf("dora: true target_modules: \"v_proj\"")},
      {MakeToyWriter(FreshDirectory("t5"), "t5", 0.1), texts_,
       "sequence_to_sequence {} " + LoraOf("target_modules: \"v\"")},
      {MakeToyWriter(FreshDirectory("ia3"), "llama", 0), texts_,
       "completion {} added_part { ia3 { target_modules: \"k_proj\" target_modules: \"down_proj\" "
       "feedforward_modules: \"down_proj\" } } "},
      {MakeToyWriter(FreshDirectory("prompt"), "gpt2", 0), texts_,
       "completion {} added_part { prompt_tuning { virtual_tokens: 3 } } "},
  };
  for (const auto& [model, dataset, work] : cases) {
    const std::string spec = absl::StrCat(work, kPart, "output: ADAPTER ");
    const internal::Run in_nf4 = ToyTraining(model, dataset, spec + kInNf4);
    const internal::Run dense = ToyTraining(DequantisedDirectory(model), dataset, spec);
    const internal::Run plain = ToyTraining(model, dataset, spec);
    RecordingSink nf4_sink, dense_sink, plain_sink;
    Succeeded(in_nf4, &nf4_sink);
    Succeeded(dense, &dense_sink);
    Succeeded(plain, &plain_sink);
    EXPECT_EQ(nf4_sink.Series("loss"), dense_sink.Series("loss")) << work;
    EXPECT_NE(nf4_sink.Series("loss"), plain_sink.Series("loss")) << work;
    EXPECT_EQ(AdapterBytes(in_nf4), AdapterBytes(dense)) << work;
    EXPECT_EQ(ReceiptOf(in_nf4).resolved_spec().training().base_weights(), v1::Training::NF4);
  }
}

TEST_F(Nf4Training, ResumesWithTheSameBits) {
  const auto job = [&](int64_t every) {
    return ToyTraining(model_, dataset_,
                       absl::StrCat("checkpoint { every_steps: ", every, " } output: ADAPTER ",
                                    kInNf4, kPart, LoraOf("target_modules: \"query\"")));
  };
  const internal::Run straight = job(1'000'000), dense = job(4);
  RecordingSink straight_sink, dense_sink;
  Succeeded(straight, &straight_sink);
  Succeeded(dense, &dense_sink);
  EXPECT_EQ(AdapterBytes(dense), AdapterBytes(straight));
  ASSERT_GT(dense_sink.checkpoints.size(), 3u);
  for (const internal::CheckpointReady& checkpoint : dense_sink.checkpoints) {
    internal::Run resumed = job(1'000'000);
    resumed.set_checkpoint_dir(dense.work_dir() + "/" + checkpoint.dir());
    RecordingSink sink;
    Succeeded(resumed, &sink);
    EXPECT_EQ(AdapterBytes(resumed), AdapterBytes(straight)) << checkpoint.ShortDebugString();
  }
}

// The adapter says that its base was in NF4, so predictions hold it so: they answer as the merged
// model, which is in fp32, and as the training's own checkpoint.
TEST_F(Nf4Training, AdapterMergedModelAndCheckpointAnswerAlike) {
  const std::string lora = LoraOf("target_modules: \"query\" target_modules: \"value\"");
  std::vector<std::string> answers;
  const auto answer = [&](internal::Run run) {
    RecordingSink sink;
    Succeeded(run, &sink);
    answers.push_back(ReadFile(run.work_dir() + "/result/predictions.jsonl").value());
  };
  for (const char* const output : {"ADAPTER", "MERGED"}) {
    const internal::Run run = ToyTraining(
        model_, dataset_,
        absl::StrCat("output: ", output, " checkpoint { every_steps: 1 } evaluation { } ", kInNf4,
                     "phases { selector { kind: ADDED_PARTS } learning_rate: 0.01 epochs: 2 } "
                     "validation_fraction: 0 ",
                     lora));
    RecordingSink sink;
    Succeeded(run, &sink);
    const std::string result = run.work_dir() + "/result";
    internal::Run prediction = ToyPrediction(result, dataset_, "classify {}");
    const bool adapter = std::string(output) == "ADAPTER";
    const std::string config = ReadFile(result + "/config.json").value();
    EXPECT_EQ(config.find("bnb_4bit_quant_type") != std::string::npos, adapter) << config;
    if (adapter) prediction.set_base_dir(model_);
    answer(prediction);
    if (!adapter) continue;
    internal::Run of_checkpoint = ToyPrediction(model_, dataset_, "classify {}");
    of_checkpoint.set_checkpoint_dir(run.work_dir() + "/" + sink.checkpoints.back().dir());
    v1::TrainingBehind* behind = of_checkpoint.mutable_assignment()->mutable_training_behind();
    *behind->mutable_spec() = run.assignment().spec();
    for (const char* label : {"left", "middle", "right"}) behind->add_labels(label);
    answer(of_checkpoint);
  }
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_EQ(answers[0], answers[1]);
  ExpectAlike(answers[0], answers[2]);
}

// A head on frozen blocks: what is saved is in NF4, as bitsandbytes stores it, with the head in
// fp32, and answers as it was trained; the probes of the receipt see to that.
TEST_F(Nf4Training, FullResultsStayInNf4) {
  const internal::Run run = ToyTraining(
      model_, dataset_,
      absl::StrCat("phases { selector { head_only: true } learning_rate: 0.01 epochs: 1 "
                   "} validation_fraction: 0 output: FULL ",
                   kInNf4));
  RecordingSink sink;
  Succeeded(run, &sink);
  const auto result = LoadModel(run.work_dir() + "/result", std::nullopt).value();
  ASSERT_TRUE(result->config().nf4.has_value());
  int in_nf4 = 0;
  for (const Parameter& parameter : result->parameters().all()) {
    in_nf4 += Nf4Of(parameter.tensor) != nullptr;
  }
  EXPECT_EQ(in_nf4, 6 * result->blocks());
}

TEST_F(Nf4Training, ADirectoryOfBitsandbytesIsTrainedAsItIs) {
  const std::string recorded = RecordedNf4Writer();
  const std::string spec =
      absl::StrCat("completion {} output: ADAPTER ", LoraOf("target_modules: \"q_proj\""), kPart);
  const internal::Run run = ToyTraining(recorded, texts_, spec);
  const internal::Run asked = ToyTraining(recorded, texts_, spec + kInNf4);
  RecordingSink sink, asked_sink;
  Succeeded(run, &sink);
  EXPECT_LT(sink.Series("loss").rbegin()->second, sink.Series("loss").begin()->second);
  // To ask for what it is changes nothing.
  Succeeded(asked, &asked_sink);
  EXPECT_EQ(AdapterBytes(run), AdapterBytes(asked));
}

TEST_F(Nf4Training, PhasesThatTrainWhatIsCompressedAreRefusedByName) {
  const struct {
    std::string selector, says;
  } cases[] = {
      {"last_blocks: 1", "phases[1].selector"},
      {"last_blocks: 1", "bert.encoder.layer.2.attention.self.query.weight"},
      {"kind: FEED_FORWARD", "intermediate.dense.weight"},
      {"kind: EMBEDDINGS", "bert.embeddings.word_embeddings.weight"},
      {"name_pattern: \".*word_embeddings.*\"", "word_embeddings.weight, which base_weights NF4"},
  };
  for (const auto& [selector, says] : cases) {
    const internal::Run run = ToyTraining(
        model_, dataset_,
        absl::StrCat("phases { selector { head_only: true } learning_rate: 0.01 epochs: 1 } phases "
                     "{ selector { ",
                     selector, " } learning_rate: 0.01 epochs: 1 } output: FULL ", kInNf4));
    EXPECT_THAT(RefusalOf(run), HasSubstr(says)) << selector;
  }
  // Norms and biases stay in fp32 and may train.
  RecordingSink sink;
  Succeeded(ToyTraining(model_, dataset_,
                        absl::StrCat("phases { selector { any_of { values { kind: NORMS } values { "
                                     "kind: BIASES } } } learning_rate: 0.01 epochs: 1 } "
                                     "validation_fraction: 0 output: FULL ",
                                     kInNf4)),
            &sink);
}

// Also where no phase would train it: the adapter would have to hold what is not there.
TEST_F(Nf4Training, CompressedModulesBesideAPartAreRefusedByName) {
  const std::string llama = MakeToyWriter(FreshDirectory("llama"), "llama", 0);
  const struct {
    std::string module, holds;
  } cases[] = {{"embed_tokens", "model.embed_tokens.weight"},
               {"1.mlp", "model.layers.1.mlp.gate_proj.weight"}};
  for (const auto& [module, holds] : cases) {
    const internal::Run run = ToyTraining(
        llama, texts_,
        absl::StrCat(
            "completion {} phases { selector { name_pattern: \".*lora_.*\" } "
            "learning_rate: 0.01 epochs: 1 } output: ADAPTER ",
            kInNf4,
            LoraOf(absl::StrCat("target_modules: \"q_proj\" modules_to_save: \"", module, "\""))));
    EXPECT_THAT(RefusalOf(run),
                AllOf(HasSubstr("added_part.lora.modules_to_save[0]"),
                      HasSubstr(absl::StrCat("holds ", holds, ", which base_weights NF4"))));
  }
}

// A bias that trains takes its whole module into the adapter, the compressed matrix too.
TEST_F(Nf4Training, ABiasBesideACompressedMatrixFitsInNoAdapter) {
  const internal::Run run = ToyTraining(
      model_, dataset_,
      absl::StrCat(
          "phases { selector { any_of { values { kind: ADDED_PARTS } values { name_pattern: "
          "\".*intermediate.dense.bias\" } } } learning_rate: 0.01 epochs: 1 } "
          "output: ADAPTER ",
          kInNf4, LoraOf("target_modules: \"query\"")));
  EXPECT_THAT(RefusalOf(run),
              AllOf(HasSubstr("intermediate.dense.weight"), HasSubstr("kept in fewer bits")));
}

}  // namespace
}  // namespace thaw
