// A language model with real weights (SmolLM2-135M-Instruct, out of script/bootstrap) generates and
// scores what transformers does with the same files.
#include <chrono>
#include <cmath>
#include <cstdlib>

#include "common/base/json.h"
#include "gtest/gtest.h"
#include "worker/model/model.h"
#include "worker/model/ops.h"

namespace thaw {
namespace {

using torch::Tensor;
using Tokens = std::vector<int64_t>;

double SecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

class LanguageModel : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string directory =
        std::string(std::getenv("THAW_DEPS")) + "/assets/models/smollm2-135m-instruct";
    const auto begin = std::chrono::steady_clock::now();
    auto model = LoadModel(directory, std::nullopt);
    ASSERT_TRUE(model.ok()) << model.status() << ": run script/bootstrap --language-model";
    std::printf("[ FIGURE   ] loaded in %.3f s\n", SecondsSince(begin));
    model_ = *std::move(model);
    recorded_ =
        ReadJsonFile(std::string(std::getenv("THAW_TEST_DATA")) + "/models/smollm2-greedy.json")
            .value();
  }

  // What the output layer reads of these sequences' new tokens.
  Tensor States(const std::vector<Tokens>& pieces, SequenceState* state,
                std::vector<int32_t>* bounds) {
    Tokens all;
    *bounds = {0};
    for (const Tokens& piece : pieces) {
      all.insert(all.end(), piece.begin(), piece.end());
      bounds->push_back(static_cast<int32_t>(all.size()));
    }
    Packed packed;
    packed.token_ids = torch::tensor(all, torch::kInt64);
    packed.cu_seqlens = *bounds;
    RunContext context;
    context.state = state;
    Rows rows = model_->Embed(packed, context);
    for (int i = 0; i < model_->blocks(); ++i) rows = model_->Block(i, rows, context);
    if (state != nullptr) state->Advance(*bounds);
    return model_->OutputStates(rows, Tensor(), context);
  }

  std::unique_ptr<Model> model_;
  nlohmann::json recorded_;
};

// All prompts at once, each sequence leaving the batch when it ends.
TEST_F(LanguageModel, GreedyTokensAreTransformers) {
  const torch::NoGradGuard no_grad;
  const nlohmann::json& cases = recorded_["greedy"];
  const int64_t end = model_->config().source["eos_token_id"];
  std::vector<Tokens> found(cases.size()), pieces;
  std::vector<size_t> alive;
  for (size_t i = 0; i < cases.size(); ++i) {
    alive.push_back(i);
    pieces.push_back(cases[i]["prompt"].get<Tokens>());
  }
  SequenceState state(model_->blocks(), static_cast<int64_t>(cases.size()));
  const auto begin = std::chrono::steady_clock::now();
  int64_t tokens = 0;
  for (int step = 0; step < 64 && !alive.empty(); ++step) {
    std::vector<int32_t> bounds;
    const Tensor states = States(pieces, &state, &bounds);
    std::vector<int64_t> last(bounds.begin() + 1, bounds.end());
    for (int64_t& row : last) --row;
    const OutputLayer output = model_->output_layer();
    const Tensor next =
        Linear(Path::kKernels, states.index_select(0, torch::tensor(last, torch::kInt64)),
               {output.weight, output.bias})
            .argmax(1);
    std::vector<size_t> still;
    std::vector<int64_t> kept;
    pieces.clear();
    for (size_t i = 0; i < alive.size(); ++i, ++tokens) {
      const int64_t token = next[static_cast<int64_t>(i)].item<int64_t>();
      found[alive[i]].push_back(token);
      if (token == end) continue;
      pieces.push_back({token});
      still.push_back(alive[i]);
      kept.push_back(static_cast<int64_t>(i));
    }
    if (still.size() < alive.size()) state.Keep(kept);
    alive = still;
  }
  std::printf("[ FIGURE   ] %d prompts, %d tokens in %.1f s\n", static_cast<int>(cases.size()),
              static_cast<int>(tokens), SecondsSince(begin));
  for (size_t i = 0; i < cases.size(); ++i) {
    EXPECT_EQ(found[i], cases[i]["output"].get<Tokens>()) << cases[i]["text"];
  }
}

TEST_F(LanguageModel, PerplexityIsTransformers) {
  const torch::NoGradGuard no_grad;
  const Tokens ids = recorded_["passage"]["ids"];
  std::vector<int32_t> bounds;
  const Tensor states = States({ids}, nullptr, &bounds);
  const OutputLayer output = model_->output_layer();
  const Tensor labels = torch::tensor(Tokens(ids.begin() + 1, ids.end()), torch::kInt64);
  const Tensor sum = LinearLogProbabilities(Path::kKernels, states.slice(0, 0, -1), output.weight,
                                            output.bias, labels)
                         .sum();
  const double perplexity = std::exp(-sum.item<double>() / static_cast<double>(labels.numel()));
  const double expected = recorded_["passage"]["perplexity"];
  std::printf("[ FIGURE   ] perplexity %.6f, off by %.1e (relative)\n", perplexity,
              std::abs(perplexity - expected) / expected);
  EXPECT_NEAR(perplexity, expected, 1e-4 * expected);
}

}  // namespace
}  // namespace thaw
