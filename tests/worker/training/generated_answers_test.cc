#include "worker/training/generated_answers.h"

#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "tests/worker/training/toy_job.h"

namespace thaw {
namespace {

TEST(GeneratedAnswersTest, ExactMatchLeavesWhiteSpaceAtTheEndsAside) {
  EXPECT_TRUE(ExactMatch(" 4", "4\n"));
  EXPECT_TRUE(ExactMatch("", " "));
  EXPECT_FALSE(ExactMatch("4 2", "42"));
  EXPECT_FALSE(ExactMatch("Paris", "paris"));
}

TEST(GeneratedAnswersTest, DigitMatchComparesTheLastNumbers) {
  struct Case {
    std::string expected;
    std::string generated;
    double match;
  };
  for (const Case& one :
       std::vector<Case>{{"1234", "1234", 1},
                         {"12 + 30 = 42", "so it is 42.", 1},
                         {"1234", "1243", 0.5},   // two replaced of four
                         {"1234", "12345", 0.8},  // one too many of five
                         {"1234", "234", 0.75},   // one missing
                         {"100", "7", 0},         // nothing in common, three of three
                         {"-5", "5", 0.5},        // the sign counts
                         {"7 - 5", "7-5", 1},     // a minus between numbers is none
                         {"(3)-5", "5", 1},
                         {"x = -5", "-5", 1},
                         {"1,000", "1000", 1},
                         {"3.14", "3.15", 0.75},
                         {"in 1999.", "1999", 1},  // a full stop is no part
                         {"2.5.2024", "2.5.2024", 1},
                         {"yes", " yes ", 1},  // no number: the whole text
                         {"yes", "yet", 2.0 / 3},
                         {"\xC3\xA9t\xC3\xA9", "ete", 1.0 / 3},  // characters, not bytes
                         {"42", "unknown", 0},
                         {"", "", 1},
                         {"", "a", 0}}) {
    EXPECT_DOUBLE_EQ(DigitMatch(one.expected, one.generated), one.match)
        << one.expected << " / " << one.generated;
  }
}

// Prompts that each have one completion, the last word of which is all that an answer needs.
std::string AnswerLines(const char* prompt, const char* answer) {
  std::string lines;
  for (int i = 0; i < 12; ++i) {
    absl::StrAppend(&lines, "{\"", prompt, "\": \"w", i, " w40\", \"", answer, "\": \" w", 60 + i,
                    " w", 90 - i, "\"}\n");
  }
  return lines;
}

// What a model has learnt by heart it also writes; before it had learnt it, it did not. The
// validation dataset holds the training's rows.
TEST(GeneratedAnswersTest, AModelThatHasLearntItsAnswersWritesThem) {
  for (const bool source : {false, true}) {
    const std::string lines =
        source ? AnswerLines("source", "target") : AnswerLines("prompt", "completion");
    internal::Run run = ToyTraining(
        MakeToyWriter(FreshDirectory("model"), source ? "t5" : "gpt2", 0),
        FreshDirectory("dataset"),
        absl::StrCat(source ? "sequence_to_sequence {}" : "completion {}",
                     " phases { selector { everything: true } learning_rate: 0.01 epochs: 60 }"
                     " batch { examples_per_step: 4 }"
                     " evaluation { metric: EXACT_MATCH also: DIGIT_MATCH every_steps: 6"
                     " max_new_tokens: 5 generated_rows: 10 }"));
    run.set_validation_dataset_dir(FreshDirectory("validation"));
    for (const std::string& directory : {run.dataset_dir(), run.validation_dataset_dir()}) {
      ASSERT_TRUE(WriteFileAtomically(directory + "/data.jsonl", lines).ok());
    }
    RecordingSink sink;
    const internal::Ended ended = RunAttempt(run, &sink);
    ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
    const std::vector<v1::EvaluationEnd> evaluations = sink.Evaluations();
    ASSERT_EQ(evaluations.size(), 30u);  // every 6 of 180 steps
    EXPECT_EQ(evaluations.front().step(), 6);
    EXPECT_GT(ended.metrics().at("exact_match"), 0.75);
    EXPECT_GE(ended.metrics().at("digit_match"), ended.metrics().at("exact_match"));
    for (const v1::EvaluationEnd& evaluation : evaluations) {
      // Of ten rows.
      const double tenths = 10 * evaluation.values().at("exact_match");
      EXPECT_NEAR(tenths, std::round(tenths), 1e-9);
    }
    EXPECT_LT(evaluations.front().values().at("exact_match"), ended.metrics().at("exact_match"));
    EXPECT_EQ(sink.progress.metric_name(), "exact_match");
    // All texts are on both sides here.
    ASSERT_FALSE(sink.Warnings().empty());
    EXPECT_EQ(sink.Warnings().back().reason(), "ROWS_SHARED");
  }
}

TEST(GeneratedAnswersTest, EndsWhenToldTo) {
  const std::string directory = MakeToyWriter(FreshDirectory("model"), "gpt2", 0);
  const auto model = *LoadModel(directory, std::nullopt);
  const auto tokenizer = *Tokenizer::Load(directory + "/tokenizer.json");
  TokenizedDataset rows;
  rows.token_ids = {5, 6, 7};
  rows.offsets = {0, 3};
  const TokenSpan answer = {2, 3};
  rows.answers.Append({&answer, 1});
  rows.expected = {"w3"};
  int64_t steps = 0;
  AnswerOptions options;
  options.generation.max_new_tokens = 4;
  options.go_on = [&](int64_t) { return ++steps < 3; };
  const auto stopped = EvaluateAnswers(model.get(), *tokenizer, rows, options);
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  EXPECT_FALSE(stopped->has_value());
  options.go_on = nullptr;
  const auto done = EvaluateAnswers(model.get(), *tokenizer, rows, options);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_TRUE(done->has_value());
}

}  // namespace
}  // namespace thaw
