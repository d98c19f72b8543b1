// Predictions with real weights (all-MiniLM-L6-v2 and SmolLM2-135M-Instruct, out of
// script/bootstrap) beside what transformers recorded with the same files.
#include <cstdlib>

#include "absl/strings/str_split.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "gtest/gtest.h"
#include "tests/worker/training/toy_job.h"
#include "worker/model/tensor_view.h"
#include "worker/text/tokenizer.h"

namespace thaw {
namespace {

std::string Asset(const std::string& model) {
  return std::string(std::getenv("THAW_DEPS")) + "/assets/models/" + model;
}

nlohmann::json RecordedIn(const std::string& file) {
  return *ReadJsonFile(std::string(std::getenv("THAW_TEST_DATA")) + "/" + file);
}

internal::Ended Predict(const internal::Run& run) {
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED)
      << ended.ShortDebugString() << ": run script/bootstrap --language-model";
  return ended;
}

TEST(RealPredictions, EmbeddingsAreThoseOfSentenceTransformers) {
  const nlohmann::json recorded = RecordedIn("embeddings/minilm.json");
  internal::Run run = ToyPrediction(Asset("minilm"), "", "");
  v1::Prediction* prediction = run.mutable_assignment()->mutable_spec()->mutable_prediction();
  prediction->mutable_embed();
  for (const nlohmann::json& row : recorded["rows"]) {
    prediction->mutable_texts()->add_values(row["text"].get<std::string>());
  }
  Predict(run);
  const auto file = SafetensorsFile::Open(run.work_dir() + "/result/embeddings.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  const torch::Tensor found = ViewTensor(*file, (*file)->tensors()[0]);
  for (size_t row = 0; row < recorded["rows"].size(); ++row) {
    const auto expected =
        torch::tensor(recorded["rows"][row]["embedding"].get<std::vector<float>>());
    const float error = (found[static_cast<int64_t>(row)] - expected).abs().max().item<float>();
    EXPECT_LT(error, 2e-5) << row;
    std::printf("[ FIGURE   ] row %zu: largest difference %.1e\n", row, error);
  }
}

TEST(RealPredictions, GreedyTextIsThatOfTransformers) {
  const nlohmann::json recorded = RecordedIn("models/smollm2-greedy.json");
  const auto tokenizer = Tokenizer::Load(Asset("smollm2-135m-instruct") + "/tokenizer.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  internal::Run run = ToyPrediction(Asset("smollm2-135m-instruct"), "", "");
  v1::Prediction* prediction = run.mutable_assignment()->mutable_spec()->mutable_prediction();
  size_t new_tokens = 0;
  for (const nlohmann::json& one : recorded["greedy"]) {
    v1::InlineExample* example = prediction->mutable_examples()->add_values();
    // A conversation begins with the token that begins a turn.
    if (one["prompt"][0] == 1) {
      example->add_messages()->set_role("user");
      example->mutable_messages(0)->set_content(one["text"].get<std::string>());
    } else {
      example->set_prompt(one["text"].get<std::string>());
    }
    new_tokens = std::max(new_tokens, one["output"].size());
  }
  prediction->mutable_generate()->set_max_new_tokens(static_cast<int32_t>(new_tokens));
  const internal::Ended ended = Predict(run);
  const auto text = ReadFile(run.work_dir() + "/result/predictions.jsonl");
  ASSERT_TRUE(text.ok());
  const std::vector<std::string> lines = absl::StrSplit(*text, '\n', absl::SkipEmpty());
  ASSERT_GT(lines.size(), 0);
  ASSERT_EQ(lines.size(), recorded["greedy"].size());
  for (size_t row = 0; row < lines.size(); ++row) {
    const std::vector<int32_t> expected = recorded["greedy"][row]["output"];
    EXPECT_EQ((*ParseJson(lines[row]))["text"], *(*tokenizer)->Decode(expected, true)) << row;
  }
  std::printf("[ FIGURE   ] %.1f tokens a second\n", ended.metrics().at("tokens_per_second"));
}

}  // namespace
}  // namespace thaw
