// Training.base_weights: bounds, contradictions, defaults.
#include "common/base/status.h"
#include "common/spec/spec_defaults.h"
#include "gmock/gmock.h"
#include "tests/common/spec/spec_examples.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

v1::JobSpec InNf4() {
  v1::JobSpec spec = TrainingExample();
  spec.mutable_training()->set_base_weights(v1::Training::NF4);
  return spec;
}

void ExpectRefused(const absl::Status& status, const std::string& field, const std::string& says) {
  const auto violations = ViolationsOf(status);
  ASSERT_EQ(violations.size(), 1u) << status;
  EXPECT_EQ(violations[0].field, field);
  EXPECT_THAT(violations[0].description, HasSubstr(says));
}

TEST(BaseWeightsSpecTest, WhatIsWrongIsRefusedByField) {
  EXPECT_TRUE(ValidateSpec(InNf4()).ok()) << ValidateSpec(InNf4());
  v1::JobSpec unknown = TrainingExample();
  unknown.mutable_training()->set_base_weights(static_cast<v1::Training::BaseWeights>(7));
  ExpectRefused(ValidateSpec(unknown), "spec.training.base_weights", "give AS_LOADED or NF4");
  v1::JobSpec delta = InNf4();
  delta.mutable_training()->set_output(v1::Training::DELTA);
  ExpectRefused(ValidateSpec(delta), "spec.training.output",
                "of which base_weights NF4 keeps none");
}

TEST(BaseWeightsSpecTest, AskForAModelAndAProgramThatLeaveThemFrozen) {
  SpecContext context = ContextExample();
  const auto resolved = ResolveSpec(InNf4(), context);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->training().base_weights(), v1::Training::NF4);
  v1::JobSpec whole = InNf4();
  whole.mutable_training()->mutable_phases(1)->mutable_selector()->set_everything(true);
  ExpectRefused(ResolveSpec(whole, context).status(), "spec.training.base_weights",
                "phase 2 trains everything");
  context.artifacts["model-1"].mutable_model()->set_model_type("awd_lstm");
  ExpectRefused(ResolveSpec(InNf4(), context).status(), "spec.training.base_weights", "awd_lstm");
}

// A pooled head alone is stored as a delta otherwise.
TEST(BaseWeightsSpecTest, NeverMakeADeltaByDefault) {
  for (const bool in_nf4 : {false, true}) {
    v1::JobSpec spec = TrainingExample();
    spec.mutable_training()->mutable_phases()->RemoveLast();
    spec.mutable_training()->mutable_pooled_head();
    SpecContext context = ContextExample();
    context.artifacts["model-1"].mutable_model()->set_parameters(1000);
    if (in_nf4) spec.mutable_training()->set_base_weights(v1::Training::NF4);
    const auto resolved = ResolveSpec(spec, context);
    ASSERT_TRUE(resolved.ok()) << resolved.status();
    EXPECT_EQ(resolved->training().output(), in_nf4 ? v1::Training::FULL : v1::Training::DELTA);
  }
}

}  // namespace
}  // namespace thaw
