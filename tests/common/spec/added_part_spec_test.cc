// Training.added_part and Training.output: bounds, contradictions, defaults.
#include <functional>

#include "common/base/status.h"
#include "common/spec/spec_defaults.h"
#include "gmock/gmock.h"
#include "tests/common/spec/spec_examples.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

v1::JobSpec LoraExample() {
  v1::JobSpec spec = TrainingExample();
  spec.mutable_training()->mutable_added_part()->mutable_lora();
  spec.mutable_training()->set_output(v1::Training::MERGED);
  return spec;
}

TEST(AddedPartSpecTest, WhatIsWrongIsRefusedByField) {
  ASSERT_TRUE(ValidateSpec(LoraExample()).ok()) << ValidateSpec(LoraExample());
  const struct {
    std::string field, says;
    std::function<void(v1::Lora*)> change;
  } cases[] = {
      {"rank", "-1", [](auto* l) { l->set_rank(-1); }},
      {"rank", "1025", [](auto* l) { l->set_rank(1025); }},
      {"alpha", "above 0", [](auto* l) { l->set_alpha(0); }},
      {"dropout", "below 1", [](auto* l) { l->set_dropout(1); }},
      {"dropout", "out of range", [](auto* l) { l->set_dropout(-0.1); }},
      {"target_pattern", "not an RE2", [](auto* l) { l->set_target_pattern("("); }},
      {"target_pattern", "one of the two",
       [](auto* l) {
         l->set_target_pattern(".*");
         l->add_target_modules("q_proj");
       }},
      {"target_modules[0]", "is empty", [](auto* l) { l->add_target_modules(""); }},
      {"target_modules[1]", "given twice",
       [](auto* l) {
         l->add_target_modules("a");
         l->add_target_modules("a");
       }},
      {"exclude_modules[0]", "is empty", [](auto* l) { l->add_exclude_modules(""); }},
      {"modules_to_save[0]", "control", [](auto* l) { l->add_modules_to_save("a\n"); }},
      {"layers_to_transform[0]", "negative", [](auto* l) { l->add_layers_to_transform(-1); }},
      {"rank_pattern[\"a\"]", "0", [](auto* l) { (*l->mutable_rank_pattern())["a"] = 0; }},
      {"rank_pattern[\"(\"]", "RE2", [](auto* l) { (*l->mutable_rank_pattern())["("] = 1; }},
      {"alpha_pattern[\"a\"]", "above 0", [](auto* l) { (*l->mutable_alpha_pattern())["a"] = 0; }},
      {"bias", "not known", [](auto* l) { l->set_bias(static_cast<v1::Lora::Bias>(9)); }},
  };
  for (const auto& [field, says, change] : cases) {
    v1::JobSpec spec = LoraExample();
    change(spec.mutable_training()->mutable_added_part()->mutable_lora());
    const auto violations = ViolationsOf(ValidateSpec(spec));
    ASSERT_EQ(violations.size(), 1u) << field << ": " << ValidateSpec(spec);
    EXPECT_EQ(violations[0].field, "spec.training.added_part.lora." + field);
    EXPECT_THAT(violations[0].description, HasSubstr(says)) << field;
  }
}

TEST(AddedPartSpecTest, KindsAndOutputsThatDoNotGoTogether) {
  const struct {
    std::string field, says;
    std::function<void(v1::Training*)> change;
  } cases[] = {
      {"added_part", "is empty", [](auto* t) { t->mutable_added_part()->clear_lora(); }},
      {"output", "MERGED needs a part that changes weights",
       [](auto* t) { t->mutable_added_part()->mutable_bottleneck(); }},
      {"output", "MERGED needs a part that changes weights",
       [](auto* t) { t->mutable_added_part()->mutable_prefix_tuning(); }},
      {"output", "leave the added part out; give ADAPTER",
       [](auto* t) {
         t->mutable_added_part()->mutable_prompt_tuning();
         t->set_output(v1::Training::FULL);
       }},
      {"tokenizer", "this added part's adapter cannot hold",
       [](auto* t) {
         t->mutable_added_part()->mutable_prompt_tuning();
         t->set_output(v1::Training::ADAPTER);
         t->set_tokenizer("model-2");
       }},
      {"added_part.ia3.target_modules[0]", "is empty",
       [](auto* t) { t->mutable_added_part()->mutable_ia3()->add_target_modules(""); }},
      {"added_part.ia3.feedforward_modules[0]", "is empty",
       [](auto* t) { t->mutable_added_part()->mutable_ia3()->add_feedforward_modules(""); }},
      {"output", "changes it; give MERGED",
       [](auto* t) {
         t->set_output(v1::Training::ADAPTER);
         t->set_tokenizer("model-2");
       }},
      {"output", "give ADAPTER or MERGED", [](auto* t) { t->set_output(v1::Training::DELTA); }},
      {"output", "leave the added part out", [](auto* t) { t->set_output(v1::Training::FULL); }},
      {"output", "not known", [](auto* t) { t->set_output(static_cast<v1::Training::Output>(9)); }},
  };
  for (const auto& [field, says, change] : cases) {
    v1::JobSpec spec = LoraExample();
    change(spec.mutable_training());
    const auto violations = ViolationsOf(ValidateSpec(spec));
    ASSERT_EQ(violations.size(), 1u) << says << ": " << ValidateSpec(spec);
    EXPECT_EQ(violations[0].field, "spec.training." + field);
    EXPECT_THAT(violations[0].description, HasSubstr(says));
  }
}

// What the result can hold, and what there is to train, depends on what the base model is.
TEST(AddedPartSpecTest, WhatDoesNotFitTheBaseModelIsRefused) {
  const struct {
    v1::Artifact::Form base;
    std::string field, says;  // empty: it fits
    std::function<void(v1::Training*)> change;
  } cases[] = {
      {v1::Artifact::FULL, "", "", [](auto* t) { t->mutable_added_part()->mutable_lora(); }},
      {v1::Artifact::FULL, "output", "is no adapter, and no part is added",
       [](auto* t) { t->set_output(v1::Training::ADAPTER); }},
      {v1::Artifact::FULL, "output", "is no adapter, and no part is added",
       [](auto* t) { t->set_output(v1::Training::MERGED); }},
      {v1::Artifact::FULL, "phases[0].selector.kind", "nothing is added",
       [](auto* t) {
         t->mutable_phases(0)->mutable_selector()->set_kind(v1::Selector::ADDED_PARTS);
       }},
      {v1::Artifact::DELTA, "output", "is a delta, on which adapters cannot be stored",
       [](auto* t) { t->mutable_added_part()->mutable_lora(); }},
      {v1::Artifact::ADAPTER, "", "", [](auto* t) { t->set_output(v1::Training::MERGED); }},
      {v1::Artifact::ADAPTER, "", "",
       [](auto* t) {
         t->mutable_phases(0)->mutable_selector()->set_kind(v1::Selector::ADDED_PARTS);
       }},
      {v1::Artifact::ADAPTER, "output", "is an adapter, which it would leave out",
       [](auto* t) { t->set_output(v1::Training::FULL); }},
      {v1::Artifact::ADAPTER, "added_part", "an adapter with a part of its own",
       [](auto* t) { t->mutable_added_part()->mutable_lora(); }},
  };
  for (const auto& [base, field, says, change] : cases) {
    SpecContext context;
    context.artifacts["model-1"] = ModelExample("model-1", v1::Artifact::MODEL);
    context.artifacts["model-1"].set_form(base);
    context.artifacts["model-1"].mutable_model()->set_parameters(1000);
    context.artifacts["dataset-1"] = DatasetExample("dataset-1");
    v1::JobSpec spec = TrainingExample();
    change(spec.mutable_training());
    const auto resolved = ResolveSpec(spec, context);
    if (field.empty()) {
      EXPECT_TRUE(resolved.ok()) << resolved.status();
      continue;
    }
    const auto violations = ViolationsOf(resolved.status());
    ASSERT_EQ(violations.size(), 1u) << says << ": " << resolved.status();
    EXPECT_EQ(violations[0].field, "spec.training." + field);
    EXPECT_THAT(violations[0].description, HasSubstr(says));
  }
}

TEST(AddedPartSpecTest, PartsBesideLayersAreRefusedByField) {
  const struct {
    std::string field, says;
    std::function<void(v1::AddedPart*)> change;
  } cases[] = {
      {"prompt_tuning.virtual_tokens", "1025",
       [](auto* p) { p->mutable_prompt_tuning()->set_virtual_tokens(1025); }},
      {"prompt_tuning.virtual_tokens", "-1",
       [](auto* p) { p->mutable_prompt_tuning()->set_virtual_tokens(-1); }},
      {"prompt_tuning.initial_text", "beside random",
       [](auto* p) {
         p->mutable_prompt_tuning()->set_random(true);
         p->mutable_prompt_tuning()->set_initial_text("a");
       }},
      {"prompt_tuning.initial_text", "65537 bytes",
       [](auto* p) { p->mutable_prompt_tuning()->set_initial_text(std::string(65537, 'a')); }},
      {"prompt_tuning.modules_to_save[0]", "is empty",
       [](auto* p) { p->mutable_prompt_tuning()->add_modules_to_save(""); }},
      {"prefix_tuning.virtual_tokens", "1025",
       [](auto* p) { p->mutable_prefix_tuning()->set_virtual_tokens(1025); }},
      {"bottleneck.place", "not known",
       [](auto* p) {
         p->mutable_bottleneck()->set_place(static_cast<v1::BottleneckAdapter::Place>(9));
       }},
      {"bottleneck.reduction", "1025",
       [](auto* p) { p->mutable_bottleneck()->set_reduction(1025); }},
      {"bottleneck.scale", "above 0", [](auto* p) { p->mutable_bottleneck()->set_scale(0); }},
  };
  for (const auto& [field, says, change] : cases) {
    v1::JobSpec spec = TrainingExample();
    change(spec.mutable_training()->mutable_added_part());
    const auto violations = ViolationsOf(ValidateSpec(spec));
    ASSERT_EQ(violations.size(), 1u) << field << ": " << ValidateSpec(spec);
    EXPECT_EQ(violations[0].field, "spec.training.added_part." + field);
    EXPECT_THAT(violations[0].description, HasSubstr(says)) << field;
  }
}

TEST(AddedPartSpecTest, VirtualTokensAndInputsShareTheModelsPositions) {
  const auto resolve = [](const std::string& type, int positions, int max_length,
                          const std::function<void(v1::AddedPart*)>& change) {
    SpecContext context;
    context.artifacts["model-1"] = ModelExample("model-1", v1::Artifact::MODEL);
    context.artifacts["model-1"].mutable_model()->set_parameters(1000);
    context.artifacts["model-1"].mutable_model()->set_model_type(type);
    context.artifacts["model-1"].mutable_model()->set_max_positions(positions);
    context.artifacts["dataset-1"] = DatasetExample("dataset-1");
    v1::JobSpec spec = TrainingExample();
    spec.mutable_training()->set_max_length(max_length);
    change(spec.mutable_training()->mutable_added_part());
    return ResolveSpec(spec, context);
  };
  const auto prompt = [](auto* p) { p->mutable_prompt_tuning()->set_virtual_tokens(30); };
  const auto prefix = [](auto* p) { p->mutable_prefix_tuning(); };
  const auto resolved = resolve("bert", 100, 0, prompt);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->training().max_length(), 70);
  const struct {
    std::string type, field, says;
    std::function<void(v1::AddedPart*)> change;
  } cases[] = {
      {"bert", "prompt_tuning.virtual_tokens", "30 beside max_length 90", prompt},
      {"bert", "prefix_tuning.virtual_tokens", "20 beside max_length 90", prefix},
      {"distilbert", "prefix_tuning", "distilbert, which cannot have it", prefix},
  };
  for (const auto& [type, field, says, change] : cases) {
    const auto violations = ViolationsOf(resolve(type, 100, 90, change).status());
    ASSERT_EQ(violations.size(), 1u) << field;
    EXPECT_EQ(violations[0].field, "spec.training.added_part." + field);
    EXPECT_THAT(violations[0].description, HasSubstr(says));
  }
}

TEST(AddedPartSpecTest, DefaultsOfPartsBesideLayers) {
  const auto filled = [](const std::function<void(v1::AddedPart*)>& change) {
    v1::JobSpec spec = TrainingExample();
    change(spec.mutable_training()->mutable_added_part());
    return WithDefaults(spec, nullptr, {}).training().added_part();
  };
  EXPECT_EQ(filled([](auto* p) { p->mutable_prompt_tuning(); }).prompt_tuning().virtual_tokens(),
            20);
  EXPECT_EQ(filled([](auto* p) { p->mutable_prefix_tuning(); }).prefix_tuning().virtual_tokens(),
            20);
  const v1::BottleneckAdapter adapter =
      filled([](auto* p) { p->mutable_bottleneck(); }).bottleneck();
  EXPECT_EQ(adapter.place(), v1::BottleneckAdapter::PFEIFFER);
  EXPECT_EQ(adapter.reduction(), 16);
  EXPECT_EQ(adapter.scale(), 1);
  EXPECT_EQ(
      filled([](auto* p) { p->mutable_bottleneck()->set_place(v1::BottleneckAdapter::PARALLEL); })
          .bottleneck()
          .scale(),
      4);
}

TEST(AddedPartSpecTest, Defaults) {
  v1::JobSpec spec = LoraExample();
  const v1::Lora filled = WithDefaults(spec, nullptr, {}).training().added_part().lora();
  EXPECT_EQ(filled.rank(), 8);
  EXPECT_EQ(filled.alpha(), 16);
  EXPECT_EQ(filled.bias(), v1::Lora::NO_BIAS);
  spec.mutable_training()->mutable_added_part()->mutable_lora()->set_rank(4);
  EXPECT_EQ(WithDefaults(spec, nullptr, {}).training().added_part().lora().alpha(), 8);
}

}  // namespace
}  // namespace thaw
