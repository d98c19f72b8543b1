// Greedy text as transformers recorded it, of every family that writes text.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/model/model_fixture.h"
#include "tests/worker/training/toy_job.h"
#include "worker/training/generation.h"
#include "worker/training/inference.h"
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

// In bf16 another token may come first than in fp32; but not another than without what is kept of
// earlier tokens, as long as the two are told apart by more than rounding.
TEST_F(RecordedTextTest, GreedyTokensInBf16AreThoseOfTheWholeText) {
  constexpr size_t kNew = 8;
  for (const char* const name : kWriters) {
    ModelFixture fixture(name, std::nullopt, /*half=*/true);
    Model& model = *fixture.model;
    const bool encoder = model.config().encoder_decoder;
    const std::vector<int32_t> prompt = fixture.json["greedy"]["prompt"];
    const std::vector<int32_t> first_output = fixture.json["greedy"]["output"];
    const torch::NoGradGuard no_grad;
    SequenceState state(model.blocks(), 1);
    std::vector<int64_t> ids(prompt.begin(), prompt.end()), targets = {first_output[0]};
    std::vector<int64_t>& written = encoder ? targets : ids;
    std::vector<int64_t> next = ids;
    double worst = 0;
    for (size_t i = 0; i < kNew; ++i) {
      Packed step, whole;
      whole.token_ids = IdTensor(ids);
      whole.cu_seqlens = {0, static_cast<int32_t>(ids.size())};
      if (encoder) {
        whole.target_ids = IdTensor(targets);
        whole.target_bounds = {0, static_cast<int32_t>(targets.size())};
        step.target_ids = IdTensor({targets.back()});
        step.target_bounds = {0, 1};
        if (i == 0) {
          step.token_ids = whole.token_ids;
          step.cu_seqlens = whole.cu_seqlens;
        }
      } else {
        step.token_ids = IdTensor(next);
        step.cu_seqlens = {0, static_cast<int32_t>(next.size())};
      }
      RunContext cached;
      cached.state = &state;
      const auto last = [&model](const Rows& rows) {
        return TokenLogits(&model, rows, IdTensor({rows.data.size(0) - 1}));
      };
      const torch::Tensor kept = last(Infer(&model, step, cached));
      const torch::Tensor anew = last(Infer(&model, whole, RunContext()));
      worst = std::max(worst, MaxDifference(kept, anew) / anew.abs().max().item<double>());
      const int64_t token = kept.argmax().item<int64_t>();
      const double best = anew.max().item<double>(), chosen = anew[0][token].item<double>();
      EXPECT_NEAR(chosen, best, 2e-2 * std::abs(best)) << name << ", token " << i;
      written.push_back(token);
      next = {token};
    }
    EXPECT_EQ(state.block(model.blocks() - 1).keys.at(0).scalar_type(), torch::kBFloat16) << name;
    EXPECT_LT(worst, 3e-2) << name;
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
