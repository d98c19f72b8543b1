#include "worker/training/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/base/json.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;

// tests/data/generation/warpers.json: logits and what transformers' processors make of them.
nlohmann::json Recorded() {
  auto recorded = ReadJsonFile(absl::StrCat(getenv("THAW_TEST_DATA"), "/generation/warpers.json"));
  EXPECT_TRUE(recorded.ok()) << recorded.status();
  return *recorded;
}

TEST(Sampler, EveryStepAndAllTogetherAreAsTransformersHasThem) {
  const nlohmann::json recorded = Recorded();
  ASSERT_GE(recorded["cases"].size(), 10u);
  for (const nlohmann::json& one : recorded["cases"]) {
    std::vector<float> logits = one["logits"];
    const nlohmann::json& asked = one["options"];
    SamplingOptions options;
    options.temperature = asked.value("temperature", 1.0);
    options.top_k = asked.value("top_k", 0);
    options.top_p = asked.value("top_p", 1.0);
    options.min_p = asked.value("min_p", 0.0);
    options.repetition_penalty = asked.value("repetition_penalty", 1.0);
    const std::set<int32_t> seen = one["seen"];
    if (options.repetition_penalty != 1) {
      const std::vector<int32_t> once(seen.begin(), seen.end());
      PenalizeRepetition(once, options.repetition_penalty, logits);
    }
    std::map<int32_t, double> ours;
    for (const Candidate& c : Candidates(logits, options)) ours[c.id] = c.probability;
    const nlohmann::json& expected = one["probabilities"];  // of those that are left, by id
    ASSERT_EQ(ours.size(), expected.size()) << asked;
    for (const auto& [id, probability] : expected.items()) {
      ASSERT_TRUE(ours.contains(std::stoi(id))) << asked << " lacks " << id;
      EXPECT_NEAR(ours[std::stoi(id)], probability.get<double>(), 1e-6) << asked << " at " << id;
    }
  }
}

TEST(Sampler, DrawsByTheExactProbabilities) {
  const std::vector<float> logits = {0.5F, -1, 2, 0, 1};
  const SamplingOptions options{.temperature = 0.7, .seed = 9};
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit / 0.7);
  constexpr int kDraws = 40000;
  std::vector<int> counts(logits.size());
  for (int row = 0; row < kDraws / 100; ++row) {
    for (int position = 0; position < 100; ++position) {
      std::vector<float> copy = logits;
      ++counts[static_cast<size_t>(NextToken(options, {}, row, position, copy))];
    }
  }
  // Five standard deviations.
  for (size_t id = 0; id < logits.size(); ++id) {
    const double p = std::exp(logits[id] / 0.7) / sum;
    EXPECT_NEAR(counts[id] / double{kDraws}, p, 5 * std::sqrt(p * (1 - p) / kDraws)) << id;
  }
}

TEST(Sampler, RandomnessIsAFunctionOfSeedRowAndPosition) {
  EXPECT_EQ(UniformAt(1, 2, 3), UniformAt(1, 2, 3));
  std::set<double> different;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    for (int row = 0; row < 10; ++row) {
      for (int position = 0; position < 10; ++position) {
        const double u = UniformAt(seed, row, position);
        EXPECT_GE(u, 0);
        EXPECT_LT(u, 1);
        different.insert(u);
      }
    }
  }
  EXPECT_EQ(different.size(), 1000u);
}

TEST(Sampler, GreedyTakesTheFirstOfEquals) {
  std::vector<float> logits = {1, 3, 3, 2};
  EXPECT_EQ(NextToken({}, {}, 0, 0, logits), 1);
  const std::vector<int32_t> seen = {1};
  EXPECT_EQ(NextToken({.repetition_penalty = 2}, seen, 0, 0, logits), 2);
}

TEST(Sampler, DrawEndsWithTheLastCandidate) {
  const std::vector<Candidate> candidates = {{3, 0, 0.5}, {8, 0, 0.4}};
  EXPECT_EQ(Draw(candidates, 0.2), 3);
  EXPECT_EQ(Draw(candidates, 0.95), 8);
}

TEST(Sampler, LargeVocabulariesKeepTheSmallestSet) {
  // Flat: top-p has to look beyond what is sorted first.
  std::vector<float> logits(5000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i % 7) * 1e-3F;
  const auto kept = Candidates(logits, {.temperature = 1, .top_p = 0.5});
  double sum = 0, least = 1;
  const auto all = Candidates(logits, {.temperature = 1});
  for (const Candidate& c : kept) {
    sum += all[static_cast<size_t>(c.id)].probability;
    least = std::min(least, all[static_cast<size_t>(c.id)].probability);
  }
  EXPECT_GE(sum, 0.5);
  EXPECT_LT(sum - least, 0.5);
  EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end(),
                             [](const Candidate& a, const Candidate& b) { return a.id < b.id; }));
}

// Logits over such a temperature are no floats any more.
TEST(Sampler, ATinyTemperatureIsGreedy) {
  for (const double temperature : {1e-50, 1e-37, 1e-7}) {
    std::vector<float> logits = {-50, -3, -40, -3.5};
    EXPECT_EQ(NextToken({.temperature = temperature}, {}, 0, 0, logits), 1) << temperature;
  }
}

TEST(Sampler, WithNothingToChooseFromItTakesTheFirst) {
  const float none = -std::numeric_limits<float>::infinity();
  std::vector<float> logits = {none, none};
  EXPECT_EQ(NextToken({.temperature = 1}, {}, 0, 0, logits), 0);
}

}  // namespace
}  // namespace thaw
