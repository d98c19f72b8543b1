#include "worker/training/generation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/worker/training/recurrent_model.h"
#include "tests/worker/training/toy_job.h"

namespace thaw {
namespace {

constexpr int64_t kVocabulary = 194;  // of the toy tokenizer

using Prompts = std::vector<std::vector<int32_t>>;

class GenerationTest : public ::testing::Test {
 protected:
  GenerationTest() {
    auto tokenizer = Tokenizer::Load(MakeToyModel(FreshDirectory("model"), 0) + "/tokenizer.json");
    EXPECT_TRUE(tokenizer.ok());
    tokenizer_ = *std::move(tokenizer);
    for (int row = 0; row < 11; ++row) {
      std::vector<int32_t> prompt;
      for (int i = 0; i <= row % 5; ++i) prompt.push_back(4 + (row * 37 + i * 11) % 190);
      prompts_.push_back(std::move(prompt));
    }
  }

  std::vector<GeneratedRow> Run(const GenerationOptions& options, const Prompts& prompts) {
    std::vector<GeneratedRow> results(prompts.size());
    std::vector<std::string> told(prompts.size());
    GenerationListener listener;
    listener.on_text = [&](int64_t row, absl::string_view piece, int64_t) {
      told[static_cast<size_t>(row)].append(piece.data(), piece.size());
    };
    listener.on_done = [&](int64_t row, const GeneratedRow& result) {
      EXPECT_EQ(results[static_cast<size_t>(row)].finish_reason, "") << "row " << row << " twice";
      results[static_cast<size_t>(row)] = result;
    };
    const absl::Status status = Generate(model_.get(), *tokenizer_, prompts, options, listener);
    EXPECT_TRUE(status.ok()) << status;
    for (size_t row = 0; row < prompts.size(); ++row) EXPECT_EQ(told[row], results[row].text);
    return results;
  }
  std::vector<GeneratedRow> Run(const GenerationOptions& options) { return Run(options, prompts_); }

  // One token after the other, each from all tokens before it.
  std::vector<int32_t> Naive(const std::vector<int32_t>& prompt, int64_t count) const {
    const bool encoder = model_->config().encoder_decoder;
    std::vector<int32_t> tokens = encoder ? std::vector<int32_t>{0} : prompt;
    const auto first = static_cast<std::ptrdiff_t>(tokens.size());
    for (int64_t i = 0; i < count; ++i) {
      const torch::Tensor logits =
          RecurrentLogits(*model_, encoder ? prompt : std::vector<int32_t>(), tokens);
      tokens.push_back(static_cast<int32_t>(logits.argmax().item<int64_t>()));
    }
    return {tokens.begin() + first, tokens.end()};
  }
  std::string TextOf(const std::vector<int32_t>& ids) const {
    return *tokenizer_->Decode(ids, true);
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Model> model_ = MakeRecurrentModel(kVocabulary, 1000, false, 5);
  Prompts prompts_;
};

TEST_F(GenerationTest, IsWhatOneTokenAfterTheOtherGives) {
  for (const bool encoder : {false, true}) {
    model_ = MakeRecurrentModel(kVocabulary, 1000, encoder, 5);
    GenerationOptions options{.max_new_tokens = 12};
    if (encoder) options.decoder_start = 0;
    const std::vector<GeneratedRow> results = Run(options);
    for (size_t row = 0; row < prompts_.size(); ++row) {
      EXPECT_EQ(results[row].text, TextOf(Naive(prompts_[row], 12))) << row;
      EXPECT_EQ(results[row].tokens, 12);
      EXPECT_EQ(results[row].finish_reason, "length");
    }
  }
}

TEST_F(GenerationTest, TextDoesNotDependOnWhatIsBeside) {
  GenerationOptions options{
      .max_new_tokens = 6,
      .sampling = {
          .temperature = 1.1, .top_k = 40, .top_p = 0.9, .repetition_penalty = 1.3, .seed = 11}};
  // A token that a row writes in its middle ends it, so that another row takes its place.
  const std::string whole = Run(options)[0].text;
  options.ends = {tokenizer_->Encode({.text = whole}, {.add_special_tokens = false})->ids[2]};
  const std::vector<GeneratedRow> all = Run(options);
  std::set<std::string> reasons;
  for (const GeneratedRow& row : all) reasons.insert(row.finish_reason);
  EXPECT_EQ(reasons.size(), 2u) << "a test of rows of different lengths";
  for (const int64_t most : {1, 3}) {
    options.most_rows = most;
    const std::vector<GeneratedRow> few = Run(options);
    for (size_t row = 0; row < all.size(); ++row) EXPECT_EQ(few[row].text, all[row].text) << row;
  }
  options.most_rows = 64;
  options.prompt_tokens = 3;
  options.cache_bytes = 1;
  const std::vector<GeneratedRow> tight = Run(options);
  for (size_t row = 0; row < all.size(); ++row) EXPECT_EQ(tight[row].text, all[row].text) << row;
  options.sampling.seed = 12;
  EXPECT_NE(Run(options)[0].text + Run(options)[1].text, all[0].text + all[1].text);
}

TEST_F(GenerationTest, GreedyTextFollowsItsPromptInAnyOrder) {
  const GenerationOptions options{.max_new_tokens = 6, .most_rows = 4};
  const std::vector<GeneratedRow> forward = Run(options);
  Prompts reversed(prompts_.rbegin(), prompts_.rend());
  const std::vector<GeneratedRow> backward = Run(options, reversed);
  for (size_t row = 0; row < prompts_.size(); ++row) {
    EXPECT_EQ(forward[row].text, backward[prompts_.size() - 1 - row].text);
  }
}

TEST_F(GenerationTest, AnyOfTheEndsEndsARow) {
  const std::vector<int32_t> whole = Naive(prompts_[0], 8);
  GenerationOptions options{.max_new_tokens = 8};
  options.ends = {193, whole[3]};
  const auto before = std::find(whole.begin(), whole.end(), whole[3]) - whole.begin();
  const GeneratedRow ended = Run(options, {prompts_[0]})[0];
  EXPECT_EQ(ended.finish_reason, "end");
  EXPECT_EQ(ended.tokens, before + 1);
  EXPECT_EQ(ended.text, TextOf({whole.begin(), whole.begin() + before}));
  options.ignore_end = true;
  EXPECT_EQ(Run(options, {prompts_[0]})[0].tokens, 8);
}

TEST_F(GenerationTest, StopStringsAreNotPartOfTheText) {
  const std::vector<int32_t> whole = Naive(prompts_[1], 8);
  GenerationOptions options{.max_new_tokens = 8};
  const std::string stop = TextOf({whole[4]});
  options.stop = {"not there", stop};
  const GeneratedRow row = Run(options, {prompts_[1]})[0];
  EXPECT_EQ(row.finish_reason, "stop");
  const std::string text = TextOf(whole);
  EXPECT_EQ(row.text, text.substr(0, text.find(stop)));
  EXPECT_LE(row.tokens, 5);
}

TEST_F(GenerationTest, EndsWithTheLastPosition) {
  model_ = MakeRecurrentModel(kVocabulary, 7, false, 5);
  const std::vector<GeneratedRow> rows = Run({.max_new_tokens = 50}, {prompts_[4], prompts_[0]});
  EXPECT_EQ(rows[0].tokens, 7 - static_cast<int64_t>(prompts_[4].size()));
  EXPECT_EQ(rows[1].tokens, 6);
  EXPECT_EQ(rows[1].finish_reason, "length");
}

TEST_F(GenerationTest, RepetitionIsPenalised) {
  GenerationOptions options{.max_new_tokens = 20, .sampling = {.repetition_penalty = 1e4}};
  const std::string text = Run(options, {prompts_[2]})[0].text;
  const std::vector<int32_t> ids =
      tokenizer_->Encode({.text = text}, {.add_special_tokens = false})->ids;
  const std::set<int32_t> different(ids.begin(), ids.end());
  EXPECT_EQ(different.size(), ids.size()) << text;
}

TEST_F(GenerationTest, EndsAtOnceWhenItIsNotWanted) {
  int64_t asked = 0;
  GenerationListener listener;
  listener.go_on = [&](int64_t) { return ++asked < 4; };
  const absl::Status status =
      Generate(model_.get(), *tokenizer_, prompts_, {.max_new_tokens = 50}, listener);
  EXPECT_TRUE(absl::IsCancelled(status));
  EXPECT_EQ(asked, 4);
}

}  // namespace
}  // namespace thaw
