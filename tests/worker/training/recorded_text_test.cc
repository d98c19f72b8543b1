// Greedy text as transformers recorded it, of every family that writes text.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/model/model_fixture.h"
#include "tests/worker/training/toy_job.h"
#include "worker/training/generation.h"
#include "worker/training/scoring.h"

namespace thaw {
namespace {

const char* const kWriters[] = {"gpt2",
                                "gpt2-scaled",
                                "bloom-5heads",
                                "bloom-4heads",
                                "llama",
                                "mistral",
                                "llama-rope-linear",
                                "llama-rope-llama3",
                                "llama-rope-yarn",
                                "llama-tied-bias",
                                "qwen2",
                                "qwen2-window",
                                "qwen3",
                                "t5",
                                "t5-v1.1"};

class RecordedTextTest : public ::testing::Test {
 protected:
  RecordedTextTest() {
    auto tokenizer = Tokenizer::Load(MakeToyModel(FreshDirectory("model"), 0) + "/tokenizer.json");
    EXPECT_TRUE(tokenizer.ok());
    tokenizer_ = *std::move(tokenizer);
  }
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(RecordedTextTest, GreedyTokensAreThoseOfTransformers) {
  for (const char* const name : kWriters) {
    ModelFixture fixture(name, std::nullopt);
    const nlohmann::json& greedy = fixture.json["greedy"];
    const std::vector<int32_t> prompt = greedy["prompt"], output = greedy["output"];
    const bool encoder = fixture.model->config().encoder_decoder;
    const size_t before = encoder ? 1 : prompt.size();
    GenerationOptions options{.max_new_tokens = 8, .ignore_end = true};
    if (encoder) options.decoder_start = output[0];
    // Beside it others that end at other times: what it writes is its own.
    std::vector<std::string> texts(3);
    GenerationListener listener;
    listener.on_done = [&](int64_t row, const GeneratedRow& result) {
      texts[static_cast<size_t>(row)] = result.text;
    };
    const std::vector<int32_t> longer = {5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const absl::Status status =
        Generate(fixture.model.get(), *tokenizer_, {longer, prompt, {9, 8}}, options, listener);
    ASSERT_TRUE(status.ok()) << name << ": " << status;
    const std::vector<int32_t> expected(output.begin() + static_cast<std::ptrdiff_t>(before),
                                        output.end());
    EXPECT_EQ(texts[1], *tokenizer_->Decode(expected, true)) << name;
  }
}

TEST_F(RecordedTextTest, ScoresAreTheRecordedLoss) {
  for (const char* const name : {"gpt2", "llama", "bloom-4heads", "t5"}) {
    ModelFixture fixture(name, std::nullopt);
    const FixtureBatch batch = fixture.Batch(0);
    const bool encoder = fixture.model->config().encoder_decoder;
    const auto list = [](const torch::Tensor& ids) {
      return std::vector<int64_t>(ids.const_data_ptr<int64_t>(),
                                  ids.const_data_ptr<int64_t>() + ids.numel());
    };
    const std::vector<int64_t> ids = list(batch.packed.token_ids), labels = list(batch.labels);
    const std::vector<int32_t>& bounds = batch.packed.cu_seqlens;
    std::vector<ScoredRow> rows;
    for (size_t s = 0; s + 1 < bounds.size(); ++s) {
      ScoredRow row;
      row.ids = {ids.begin() + bounds[s], ids.begin() + bounds[s + 1]};
      if (encoder) {
        row.source = row.ids;
        row.ids.clear();
        for (int32_t r = batch.packed.target_bounds[s]; r < batch.packed.target_bounds[s + 1];
             ++r) {
          if (labels[static_cast<size_t>(r)] >= 0) {
            row.ids.push_back(static_cast<int32_t>(labels[static_cast<size_t>(r)]));
          }
        }
      } else {
        // Packed labels stand at the row before their token.
        int32_t first = bounds[s];
        while (labels[static_cast<size_t>(first)] < 0) ++first;
        row.first = first - bounds[s] + 1;
      }
      rows.push_back(std::move(row));
    }
    const int32_t start =
        encoder ? fixture.model->config().source["decoder_start_token_id"].get<int32_t>() : -1;
    const auto scores = Score(fixture.model.get(), rows, start, 64, [](int64_t) { return true; });
    double sum = 0, count = 0;
    for (const auto& values : *scores) {
      for (const float value : values) sum -= value;
      count += static_cast<double>(values.size());
    }
    EXPECT_EQ(count, batch.loss_units) << name;
    EXPECT_NEAR(sum / count, fixture.json["loss"].get<double>(), 1e-4) << name;
  }
}

}  // namespace
}  // namespace thaw
