#include "common/spec/auto_values.h"

#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "tests/common/spec/spec_examples.h"

namespace thaw {
namespace {

v1::Phase PhaseOf(const std::string& text) {
  v1::Phase phase;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &phase)) << text;
  return phase;
}

// docs/programs.md has these numbers too.
TEST(AutoValuesTest, TheRateFollowsTheSizeOfTheModelAndWhatIsTrained) {
  struct Case {
    const char* phase;
    int64_t parameters;
    bool new_head;
    double expected;
  };
  const Case cases[] = {
      {"selector { everything: true }", 22'700'000, true, 1e-4},
      {"selector { everything: true }", 110'000'000, true, 5.5e-5},
      {"selector { everything: true }", 355'000'000, true, 3.5e-5},
      {"selector { everything: true }", 7'000'000'000, false, 1e-5},
      {"selector { everything: true }", 1'000'000, true, 2e-4},
      {"selector { everything: true } learning_rate_decay: 2.6", 22'700'000, true, 1e-3},
      {"selector { last_blocks: 2 }", 22'700'000, true, 5e-4},
      {"selector { last_blocks: 2 } learning_rate_decay: 2.6", 22'700'000, true, 1e-3},
      {"selector { head_only: true }", 22'700'000, true, 5e-3},
      {"selector { last_blocks: 0 }", 7'000'000'000, true, 5e-3},
      {"selector { head_only: true }", 22'700'000, false, 5e-4},
      {"selector { kind: BIASES }", 110'000'000, true, 5.5e-4},
      {"selector { kind: ATTENTION }", 110'000'000, true, 5.5e-5},
      {"selector { kind: ADDED_PARTS }", 7'000'000'000, false, 1e-4},
      {"selector { any_of { values { kind: BIASES } values { head_only: true } } }", 110'000'000,
       true, 5.5e-4},
      {"selector { name_pattern: '.*bias' }", 22'700'000, true, 1e-4}};
  for (const Case& one : cases) {
    const TrainingSize size{.parameters = one.parameters, .new_head = one.new_head};
    EXPECT_DOUBLE_EQ(AutoLearningRate(PhaseOf(one.phase), size), one.expected)
        << one.phase << " " << one.parameters;
  }
  const TrainingSize recurrent{.recurrent = true, .parameters = 50'000'000, .new_head = true};
  EXPECT_DOUBLE_EQ(AutoLearningRate(PhaseOf(cases[0].phase), recurrent), 1e-3);
  EXPECT_DOUBLE_EQ(AutoLearningRate(PhaseOf(cases[5].phase), recurrent), 1e-2);
}

TEST(AutoValuesTest, SmallDataIsSeenMoreOften) {
  struct Case {
    int64_t rows;
    double epochs;
    int examples_per_step;
  };
  const Case cases[] = {{0, 2, 16},      {1, 10, 8},      {500, 10, 8},    {1000, 8, 16},
                        {3000, 3, 16},   {4000, 2, 16},   {19'999, 2, 16}, {20'000, 2, 32},
                        {49'999, 2, 32}, {50'000, 1, 32}, {100'000, 1, 64}};
  for (const Case& one : cases) {
    EXPECT_EQ(AutoEpochs({.rows = one.rows}), one.epochs) << one.rows;
    EXPECT_EQ(AutoExamplesPerStep({.rows = one.rows}), one.examples_per_step) << one.rows;
  }
}

TEST(AutoValuesTest, AHeadIsNewUnlessItAnswersWithTheSameLabels) {
  const v1::Artifact fresh = ModelExample("model-1", v1::Artifact::MODEL);
  const v1::Artifact trained = ModelExample("result-1", v1::Artifact::RESULT, {"0", "1"});
  const v1::Artifact same = DatasetExample("dataset-1"), other = DatasetExample("d", {"1", "0"});
  const v1::Training training = TrainingExample().training();
  EXPECT_TRUE(SizeOf(training, &fresh, &same).new_head);
  EXPECT_FALSE(SizeOf(training, &trained, &same).new_head);
  EXPECT_TRUE(SizeOf(training, &trained, &other).new_head);
  EXPECT_EQ(SizeOf(training, &trained, &same).rows, 100);
  v1::Training language = training;
  language.mutable_language_modeling();
  EXPECT_FALSE(SizeOf(language, &fresh, &same).new_head);
  EXPECT_EQ(SizeOf(language, &fresh, &same).rows, 0) << "not known";
}

}  // namespace
}  // namespace thaw
