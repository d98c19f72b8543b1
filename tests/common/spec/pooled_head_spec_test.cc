// Training.pooled_head, Phase.convergence and the preset of features: bounds, contradictions,
// defaults.
#include <functional>

#include "common/base/status.h"
#include "gmock/gmock.h"
#include "tests/common/spec/spec_examples.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

v1::JobSpec ConvergingExample() {
  return SpecFromJson(R"({"base_model": "model-1", "training": {
    "dataset": "dataset-1", "text_classification": {}, "pooled_head": {"pooling": "MEAN"},
    "phases": [{"selector": {"head_only": true}, "convergence": {}}]}})");
}

v1::JobSpec FeaturesExample() {
  return SpecFromJson(R"({"base_model": "model-1", "training": {
    "dataset": "dataset-1", "text_classification": {}, "preset": {"name": "FEATURES"}}})");
}

SpecContext WithWeights() {
  SpecContext context = ContextExample();
  for (const char* id : {"model-1", "result-1"}) {
    context.artifacts[id].mutable_model()->set_parameters(22'700'000);
  }
  return context;
}

v1::Training Resolved(const v1::JobSpec& spec, const SpecContext& context = WithWeights()) {
  const auto resolved = ResolveSpec(spec, context);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  return resolved.ok() ? resolved->training() : v1::Training();
}

TEST(PooledHeadSpecTest, WhatIsWrongIsRefusedByField) {
  ASSERT_TRUE(ValidateSpec(ConvergingExample()).ok()) << ValidateSpec(ConvergingExample());
  const struct {
    std::string field, says;
    std::function<void(v1::Training*)> change;
  } cases[] = {
      {"pooled_head.blocks", "negative", [](auto* t) { t->mutable_pooled_head()->set_blocks(-1); }},
      {"pooled_head.pooling", "not known",
       [](auto* t) { t->mutable_pooled_head()->set_pooling(static_cast<v1::Embed::Pooling>(9)); }},
      {"pooled_head.dropout", "below 1", [](auto* t) { t->mutable_pooled_head()->set_dropout(1); }},
      {"pooled_head.export_features", "head_only in every phase",
       [](auto* t) {
         t->mutable_pooled_head()->set_export_features(true);
         v1::Phase* more = t->add_phases();
         more->mutable_selector()->set_everything(true);
         more->set_epochs(1);
       }},
      {"phases[0].convergence", "leave that out",
       [](auto* t) { t->mutable_pooled_head()->set_hidden_size(8); }},
      {"phases[0].convergence", "give pooled_head", [](auto* t) { t->clear_pooled_head(); }},
      {"phases[0].convergence.max_iterations", "10001",
       [](auto* t) { t->mutable_phases(0)->mutable_convergence()->set_max_iterations(10'001); }},
      {"phases[0].convergence.tolerance", "above 0",
       [](auto* t) { t->mutable_phases(0)->mutable_convergence()->set_tolerance(0); }},
      {"phases[0].convergence.l2", "-1",
       [](auto* t) { t->mutable_phases(0)->mutable_convergence()->set_l2(-1); }},
      {"phases[0].selector", "head_only",
       [](auto* t) { t->mutable_phases(0)->mutable_selector()->set_last_blocks(1); }},
      {"phases[0].learning_rate", "no steps at a rate",
       [](auto* t) { t->mutable_phases(0)->set_learning_rate(0.1); }},
      {"phases[0].frozen_dropout", "leave it out",
       [](auto* t) { t->mutable_phases(0)->set_frozen_dropout(true); }},
      {"schedule", "ends by convergence",
       [](auto* t) { t->mutable_schedule()->set_shape(v1::Schedule::CONSTANT); }},
      {"pooled_head", "text_classification and regression",
       [](auto* t) { t->mutable_language_modeling(); }},
  };
  for (const auto& [field, says, change] : cases) {
    v1::JobSpec spec = ConvergingExample();
    change(spec.mutable_training());
    const auto violations = ViolationsOf(ValidateSpec(spec));
    ASSERT_EQ(violations.size(), 1u) << field << ": " << ValidateSpec(spec);
    EXPECT_EQ(violations[0].field, "spec.training." + field);
    EXPECT_THAT(violations[0].description, HasSubstr(says)) << field;
  }
}

TEST(PooledHeadSpecTest, WhatTheModelDoesNotHave) {
  const struct {
    std::string field, says;
    std::function<void(v1::Training*)> change;
  } cases[] = {
      {"pooled_head.blocks", "at most that",
       [](auto* t) { t->mutable_pooled_head()->set_blocks(7); }},
      {"phases[1].selector.last_blocks", "the model has 2",
       [](auto* t) {
         t->mutable_pooled_head()->set_blocks(2);
         v1::Phase* more = t->add_phases();
         more->mutable_selector()->set_last_blocks(3);
         more->set_epochs(1);
       }},
      {"pooled_head.pooling", "first token says nothing",
       [](auto* t) { t->mutable_pooled_head()->set_pooling(v1::Embed::CLS); }},
  };
  for (const auto& [field, says, change] : cases) {
    v1::JobSpec spec = ConvergingExample();
    SpecContext context = WithWeights();
    change(spec.mutable_training());
    if (spec.training().pooled_head().pooling() == v1::Embed::CLS) {
      context.artifacts["model-1"].mutable_model()->set_model_type("gpt2");
    }
    const auto violations = ViolationsOf(ResolveSpec(spec, context).status());
    ASSERT_EQ(violations.size(), 1u) << field << ": " << ResolveSpec(spec, context).status();
    EXPECT_EQ(violations[0].field, "spec.training." + field);
    EXPECT_THAT(violations[0].description, HasSubstr(says)) << field;
  }
}

TEST(PooledHeadSpecTest, DefaultsAreFilledIn) {
  const v1::Training training = Resolved(ConvergingExample());
  EXPECT_EQ(training.pooled_head().blocks(), 6);
  EXPECT_EQ(training.output(), v1::Training::DELTA);
  const v1::Phase& phase = training.phases(0);
  EXPECT_EQ(phase.convergence().max_iterations(), 500);
  EXPECT_EQ(phase.convergence().tolerance(), 1e-6);
  EXPECT_EQ(phase.convergence().l2(), 1);
  EXPECT_EQ(phase.learning_rate(), 0);
  EXPECT_FALSE(phase.has_schedule());
  // What is resolved is valid and stays as it is.
  v1::JobSpec again = ConvergingExample();
  *again.mutable_training() = training;
  EXPECT_EQ(Resolved(again).SerializeAsString(), training.SerializeAsString());
}

TEST(PooledHeadSpecTest, FeaturesAreAPooledHeadAndAPhase) {
  v1::Training training = Resolved(FeaturesExample());
  ASSERT_EQ(training.phases_size(), 1);
  EXPECT_TRUE(training.phases(0).selector().head_only());
  EXPECT_EQ(training.phases(0).epochs(), 10);
  EXPECT_EQ(training.phases(0).learning_rate(), 5e-3);
  EXPECT_EQ(training.pooled_head().pooling(), v1::Embed::MEAN);
  EXPECT_EQ(training.pooled_head().blocks(), 6);
  EXPECT_EQ(training.output(), v1::Training::DELTA);
  v1::JobSpec spec = FeaturesExample();
  spec.mutable_training()->mutable_pooled_head()->set_blocks(3);
  spec.mutable_training()->mutable_pooled_head()->set_hidden_size(64);
  spec.mutable_training()->mutable_pooled_head()->set_export_features(true);
  training = Resolved(spec);
  EXPECT_EQ(training.pooled_head().blocks(), 3);
  EXPECT_EQ(training.pooled_head().hidden_size(), 64);
  // What has no weights has none to differ from.
  SpecContext without = WithWeights();
  without.artifacts["model-1"].mutable_model()->set_parameters(0);
  EXPECT_EQ(Resolved(FeaturesExample(), without).output(), v1::Training::FULL);
}

}  // namespace
}  // namespace thaw
