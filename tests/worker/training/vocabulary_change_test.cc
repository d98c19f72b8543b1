#include "worker/training/vocabulary_change.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "common/base/files.h"
#include "common/base/json.h"
#include "tests/worker/training/toy_job.h"
#include "worker/model/model.h"
#include "worker/model/tensor_view.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

torch::Tensor TensorOf(const std::string& directory, const std::string& name) {
  const auto file = SafetensorsFile::Open(directory + "/model.safetensors").value();
  return ViewTensor(file, *file->Find(name)).clone();
}

// 4 special tokens, then w5 (old id 9), one that is new, w2 (old id 6).
const std::vector<std::string> kOtherWords = {"w5", "unheard", "w2"};

TEST(VocabularyChange, RowsFollowTheirTokensAndNewOnesGetTheMean) {
  const std::string tokenizer = MakeToyTokenizer(FreshDirectory("tokenizer"), kOtherWords);
  for (const auto& [fixture, table] : std::vector<std::pair<std::string, std::vector<std::string>>>{
           {"gpt2", {"transformer.wte.weight"}},
           {"llama", {"model.embed_tokens.weight", "lm_head.weight"}},
           {"t5", {"shared.weight"}}}) {
    const std::string base = MakeToyWriter(FreshDirectory("model"), fixture, 0);
    const std::string changed = FreshDirectory("parent") + "/model";
    const absl::Status status = ChangeVocabulary(base, tokenizer, changed);
    ASSERT_TRUE(status.ok()) << status;
    for (const std::string& name : table) {
      const torch::Tensor before = TensorOf(base, name), after = TensorOf(changed, name);
      ASSERT_EQ(after.size(0), 7) << name;
      EXPECT_TRUE(after[4].equal(before[9])) << name;
      EXPECT_TRUE(after[6].equal(before[6])) << name;
      EXPECT_TRUE(after[3].equal(before[3])) << name;
      // Of the 194 tokens that the tokenizer has, not of the table's rows beyond.
      EXPECT_TRUE(after[5].allclose(before.slice(0, 0, 194).mean(0), 1e-5, 1e-6)) << name;
    }
    const auto config = *ReadJsonFile(changed + "/config.json");
    EXPECT_EQ(config["vocab_size"], 7);
    EXPECT_EQ(config["eos_token_id"], 3);
    EXPECT_EQ(config["pad_token_id"], 0);
    const auto model = LoadModel(changed, std::nullopt);
    ASSERT_TRUE(model.ok()) << model.status();
  }
}

TEST(VocabularyChange, ATrainingLeavesTheNewTokenizerAndResumesWithTheSameBits) {
  const std::string model = MakeToyWriter(FreshDirectory("model"), "gpt2", 0.1);
  std::vector<std::string> words = {"unheard"};
  for (int i = 160; i >= 0; --i) words.push_back("w" + std::to_string(i));
  internal::Run run =
      ToyTraining(model, MakeToyTexts(FreshDirectory("dataset"), 60, 3),
                  "language_modeling {} max_length: 24 validation_fraction: 0.2 phases { selector "
                  "{ everything: "
                  "true } learning_rate: 0.005 epochs: 3 } checkpoint { every_steps: 2 }");
  run.set_tokenizer_dir(MakeToyTokenizer(FreshDirectory("tokenizer"), words));
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  const std::string result = run.work_dir() + "/result";
  EXPECT_EQ((*ReadJsonFile(result + "/config.json"))["vocab_size"], 166);
  EXPECT_EQ(*ReadFile(result + "/tokenizer.json"),
            *ReadFile(run.tokenizer_dir() + "/tokenizer.json"));
  EXPECT_EQ(TensorOf(result, "transformer.wte.weight").size(0), 166);

  internal::Run again = run;
  again.set_work_dir(FreshDirectory("work"));
  again.set_checkpoint_dir(run.work_dir() + "/" + sink.checkpoints[1].dir());
  RecordingSink resumed;
  ASSERT_EQ(RunAttempt(again, &resumed).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  EXPECT_EQ(ResultWeights(again), ResultWeights(run));
}

// Of a model that is drawn there is nothing to follow: only its size changes.
TEST(VocabularyChange, AConfigurationWithoutWeightsIsDrawnForTheNewTokens) {
  const std::string model = MakeToyLstm(FreshDirectory("model"), 0);
  const std::string tokenizer = MakeToyTokenizer(FreshDirectory("tokenizer"), kOtherWords);
  const std::string changed = FreshDirectory("parent") + "/model";
  const absl::Status status = ChangeVocabulary(model, tokenizer, changed);
  ASSERT_TRUE(status.ok()) << status;
  const auto config = *ReadJsonFile(changed + "/config.json");
  EXPECT_EQ(config["vocab_size"], 7);
  EXPECT_EQ(config["pad_token_id"], 0) << "which the old one left to the default, 1";
  EXPECT_FALSE(Exists(changed + "/model.safetensors"));

  std::vector<std::string> words;
  for (int i = 0; i < 150; ++i) words.push_back("w" + std::to_string(i));
  internal::Run run = ToyTraining(model, MakeToyTexts(FreshDirectory("dataset"), 20, 3),
                                  "language_modeling {} max_length: 8 validation_fraction: 0 "
                                  "phases { selector { everything: true } learning_rate: 0.005 "
                                  "steps: 2 }");
  run.set_tokenizer_dir(MakeToyTokenizer(FreshDirectory("tokenizer"), words));
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  EXPECT_EQ(TensorOf(run.work_dir() + "/result", "0.encoder.weight").size(0), 154);
}

// Its tables are those of its family: what merely has as many rows and such a name stays.
TEST(VocabularyChange, AnLstmsRowsFollowTheirTokens) {
  const std::string model = MakeToyLstm(FreshDirectory("model"), 0);
  internal::Run run = ToyTraining(model, MakeToyTexts(FreshDirectory("dataset"), 20, 3),
                                  "language_modeling {} max_length: 8 validation_fraction: 0 "
                                  "phases { selector { everything: true } learning_rate: 0.005 "
                                  "steps: 2 }");
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(run, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  const std::string base = run.work_dir() + "/result";
  const std::string changed = FreshDirectory("parent") + "/model";
  const absl::Status status =
      ChangeVocabulary(base, MakeToyTokenizer(FreshDirectory("tokenizer"), kOtherWords), changed);
  ASSERT_TRUE(status.ok()) << status;
  for (const char* name :
       {"0.encoder.weight", "0.encoder_dp.emb.weight", "1.decoder.weight", "1.decoder.bias"}) {
    const torch::Tensor before = TensorOf(base, name), after = TensorOf(changed, name);
    ASSERT_EQ(after.size(0), 7) << name;
    EXPECT_TRUE(after[4].equal(before[9])) << name;
  }
  EXPECT_TRUE(LoadModel(changed, std::nullopt).ok());
}

// Its position table begins behind the padding's id: another id would shift every position.
TEST(VocabularyChange, RefusesToShiftRobertasPositions) {
  const std::string fixture = std::string(getenv("THAW_TEST_DATA")) + "/models/roberta";
  const std::string model = MakeToyTokenizer(FreshDirectory("model"), kOtherWords);
  for (const char* file : {"config.json", "model.safetensors"}) {
    ASSERT_TRUE(WriteFileAtomically(model + "/" + file, *ReadFile(fixture + "/" + file)).ok());
  }
  const std::string tokenizer = MakeToyTokenizer(FreshDirectory("tokenizer"), kOtherWords);
  const auto change = [&] {
    return ChangeVocabulary(model, tokenizer, FreshDirectory("parent") + "/model");
  };
  EXPECT_THAT(change().ToString(),
              HasSubstr("its padding token has the id 0, that of the base model 1, from which "
                        "positions of a roberta count"));
  ASSERT_TRUE(WriteFileAtomically(tokenizer + "/tokenizer_config.json",
                                  R"({"pad_token": "[UNK]", "eos_token": "[SEP]"})")
                  .ok());
  EXPECT_TRUE(change().ok()) << change();
}

TEST(VocabularyChange, RefusesAModelWithoutTables) {
  const std::string model = MakeToyWriter(FreshDirectory("model"), "gpt2", 0);
  auto config = *ReadJsonFile(model + "/config.json");
  config["vocab_size"] = 198;
  ASSERT_TRUE(WriteFileAtomically(model + "/config.json", config.dump()).ok());
  const absl::Status status =
      ChangeVocabulary(model, MakeToyTokenizer(FreshDirectory("tokenizer"), kOtherWords),
                       FreshDirectory("parent") + "/model");
  EXPECT_THAT(status.ToString(), HasSubstr("no table of 198 tokens"));
}

}  // namespace
}  // namespace thaw
