#include "common/spec/cache_decision.h"

#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "tests/common/spec/spec_examples.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::Training TrainingOf(const std::string& text) {
  v1::Training training;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &training)) << text;
  if (training.task_case() == v1::Training::TASK_NOT_SET) training.mutable_text_classification();
  training.mutable_batch()->set_examples_per_step(10);
  return training;
}

TEST(CacheDecision, KeepsWhatIsAllowedAndPays) {
  struct Case {
    const char* training;
    const char* model_type;
    std::optional<int> frozen_blocks;
    bool has_validation;
    bool keeps_training, keeps_validation;
    const char* why;
  };
  // 100 rows, 10 a step.
  const Case cases[] = {
      {"phases { epochs: 2 }", "bert", 6, true, true, true,
       "kept: blocks 0 to 5 are frozen for 2 passes over the rows; at most 1024 MiB in memory, "
       "then a file"},
      {"phases { epochs: 2 }", "bert", 1, false, true, false,
       "kept: block 0 is frozen for 2 passes over the rows; at most 1024 MiB in memory, then a "
       "file"},
      {"phases { epochs: 2 } activation_cache { max_bytes: 3145728 }", "gpt2", 2, false, true,
       false,
       "kept: blocks 0 to 1 are frozen for 2 passes over the rows; at most 3 MiB in memory, then a "
       "file"},
      {"phases { epochs: 2 } activation_cache { use: OFF }", "bert", 6, true, false, false,
       "no: use is OFF"},
      {"phases { epochs: 2 frozen_dropout: true }", "bert", 6, true, false, false,
       "no: with frozen_dropout every pass differs"},
      {"phases { epochs: 2 }", "awd_lstm", 3, true, false, false,
       "no: what a recurrent model computes for a row depends on the rows beside it"},
      {"phases { epochs: 2 }", "bert", 0, true, false, false,
       "no: no block is frozen below what trains"},
      {"phases { epochs: 1 }", "bert", 6, true, false, false,
       "no: 1 pass over the rows, and nothing is computed twice"},
      {"phases { epochs: 0.25 }", "bert", 6, true, false, false,
       "no: 0.25 passes over the rows, and nothing is computed twice"},
      {"phases { epochs: 1 } evaluation { every_epochs: 0.25 }", "bert", 6, true, false, true,
       "kept: blocks 0 to 5 are frozen for 4 evaluations; at most 1024 MiB in memory, then a file"},
      {"phases { epochs: 1 } evaluation { every_epochs: 0.25 }", "bert", 6, false, false, false,
       "no: 1 pass over the rows, and nothing is computed twice"},
      {"phases { steps: 25 }", "bert", 6, false, true, false,
       "kept: blocks 0 to 5 are frozen for 2.5 passes over the rows; at most 1024 MiB in memory, "
       "then a file"},
      {"phases { steps: 10 }", "bert", 6, false, false, false,
       "no: 1 pass over the rows, and nothing is computed twice"},
      {"phases { steps: 10 } evaluation { every_steps: 3 }", "bert", 6, true, false, true,
       "kept: blocks 0 to 5 are frozen for 4 evaluations; at most 1024 MiB in memory, then a file"},
      {"phases { loss_units: 150 }", "bert", 6, false, true, false,
       "kept: blocks 0 to 5 are frozen for 1.5 passes over the rows; at most 1024 MiB in memory, "
       "then a file"},
      {"phases { plateau { max_epochs: 9 } }", "bert", 6, true, true, true,
       "kept: blocks 0 to 5 are frozen for as many passes over the rows as it takes; at most 1024 "
       "MiB in memory, then a file"},
      {"phases { convergence {} }", "bert", 6, true, false, false,
       "no: a phase that ends by convergence reads the rows once"},
      {"phases { epochs: 3 }", "bert", std::nullopt, true, false, false,
       "perhaps: if the weights show that blocks are frozen below what trains, kept for 3 passes "
       "over the rows; at most 1024 MiB in memory, then a file"}};
  for (const Case& one : cases) {
    const v1::Training training = TrainingOf(one.training);
    const CacheDecision decision = DecideCache(
        training, training.phases(0), one.model_type,
        {.frozen_blocks = one.frozen_blocks, .rows = 100, .has_validation = one.has_validation});
    EXPECT_EQ(decision.why, one.why) << one.training;
    EXPECT_EQ(decision.training, one.keeps_training) << one.training;
    EXPECT_EQ(decision.validation, one.keeps_validation) << one.training;
  }
}

TEST(CacheDecision, TheSelectorTellsWhatIsFrozenWhereItCan) {
  struct Case {
    const char* selector;
    std::optional<int> of_a_classifier, of_a_language_model;
  };
  // 6 blocks.
  const Case cases[] = {
      {"head_only: true", 6, std::nullopt},
      {"last_blocks: 0", 6, std::nullopt},
      {"last_blocks: 2", 4, std::nullopt},
      {"last_blocks: 6", 0, 0},
      {"last_blocks: 7", 0, 0},
      {"everything: true", 0, 0},
      {"last_blocks: 3 and_not { last_blocks: 2 }", 3, std::nullopt},
      {"last_blocks: 3 and_not { head_only: true }", 3, std::nullopt},
      {"last_blocks: 3 and_not { kind: NORMS }", std::nullopt, std::nullopt},
      {"everything: true and_not { last_blocks: 6 }", std::nullopt, std::nullopt},
      {"head_only: true exclude_patterns: '.*bias'", std::nullopt, std::nullopt},
      {"name_pattern: '.*'", std::nullopt, std::nullopt},
      {"kind: ADDED_PARTS", std::nullopt, std::nullopt},
      {"any_of { values { head_only: true } values { last_blocks: 2 } }", 4, std::nullopt},
      {"any_of { values { kind: BIASES } values { head_only: true } }", std::nullopt, std::nullopt},
      {"any_of { values { kind: BIASES } values { everything: true } }", 0, 0}};
  for (const Case& one : cases) {
    const std::string phases = std::string("phases { selector { ") + one.selector + " } }";
    v1::Training training = TrainingOf(phases);
    EXPECT_EQ(FrozenBlocks(training, training.phases(0), 6), one.of_a_classifier) << one.selector;
    training.mutable_pooled_head()->set_blocks(2);
    if (one.of_a_classifier) {
      EXPECT_EQ(FrozenBlocks(training, training.phases(0), 6), std::min(*one.of_a_classifier, 2))
          << one.selector;
    }
    training = TrainingOf(phases + " language_modeling {}");
    EXPECT_EQ(FrozenBlocks(training, training.phases(0), 6), one.of_a_language_model)
        << one.selector;
  }
}

TEST(CacheDecision, ResolvedSpecSaysItForEachPhase) {
  v1::JobSpec spec = TrainingExample();
  spec.mutable_training()->mutable_activation_cache()->add_decisions("phase 1: whatever");
  spec.mutable_training()->mutable_phases(0)->set_epochs(3);
  const auto resolved = ResolveSpec(spec, ContextExample());
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  const v1::ActivationCache& cache = resolved->training().activation_cache();
  EXPECT_EQ(cache.use(), v1::ActivationCache::AUTO);
  EXPECT_EQ(cache.max_bytes(), 1 << 30);
  // Of 90 rows; 8 examples a step.
  EXPECT_THAT(
      cache.decisions(),
      ElementsAre(
          "phase 1: kept: blocks 0 to 5 are frozen for 3 passes over the rows; at most 1024 MiB in "
          "memory, then a file",
          "phase 2: kept: blocks 0 to 3 are frozen for 8.89 passes over the rows; at most 1024 "
          "MiB in memory, then a file"));
  EXPECT_EQ(CanonicalBytes(*ResolveSpec(*resolved, ContextExample())), CanonicalBytes(*resolved));
}

TEST(CacheDecision, RefusesWhatItDoesNotKnow) {
  v1::JobSpec spec = TrainingExample();
  v1::ActivationCache* cache = spec.mutable_training()->mutable_activation_cache();
  cache->set_max_bytes(-1);
  EXPECT_THAT(ValidateSpec(spec).message(), HasSubstr("activation_cache.max_bytes"));
  cache->set_max_bytes(10'000'000'000'001);
  EXPECT_THAT(ValidateSpec(spec).message(), HasSubstr("activation_cache.max_bytes"));
  cache->set_max_bytes(10'000'000'000'000);
  EXPECT_TRUE(ValidateSpec(spec).ok());
  cache->set_use(static_cast<v1::ActivationCache::Use>(7));
  EXPECT_THAT(ValidateSpec(spec).message(), HasSubstr("activation_cache.use"));
}

}  // namespace
}  // namespace thaw
