#include "common/spec/preset_program.h"

#include <functional>

#include "common/base/status.h"
#include "gmock/gmock.h"
#include "tests/common/spec/spec_examples.h"

namespace thaw {
namespace {

using testing::HasSubstr;

v1::JobSpec PresetExample(v1::Preset::Name name) {
  v1::JobSpec spec = TrainingExample();
  spec.mutable_training()->clear_phases();
  spec.mutable_training()->mutable_preset()->set_name(name);
  return spec;
}

SpecContext ContextOf(int blocks, int64_t parameters = 22'700'000, int64_t rows = 4000) {
  SpecContext context = ContextExample();
  v1::ModelSummary* model = context.artifacts["model-1"].mutable_model();
  model->set_blocks(blocks);
  model->set_parameters(parameters);
  context.artifacts["dataset-1"].mutable_dataset()->set_rows(rows);
  return context;
}

v1::Training Resolved(const v1::JobSpec& spec, const SpecContext& context) {
  const auto resolved = ResolveSpec(spec, context);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  return resolved.ok() ? resolved->training() : v1::Training();
}

// What a table of the program has: name, selector, rate, decay, epochs.
std::vector<std::string> Lines(const v1::Training& training) {
  std::vector<std::string> lines;
  for (const v1::Phase& phase : training.phases()) {
    char numbers[80];
    snprintf(numbers, sizeof(numbers), " | %g / %g | %g", phase.learning_rate(),
             phase.learning_rate_decay(), phase.epochs());
    lines.push_back(phase.name() + " | " + phase.selector().ShortDebugString() + numbers);
  }
  return lines;
}

// docs/programs.md shows these programs.
TEST(PresetProgramTest, ExpandsToAProgramThatEverybodySees) {
  struct Case {
    v1::Preset::Name name;
    std::vector<std::string> phases;
  };
  const std::vector<Case> cases = {
      {v1::Preset::FEATURES, {"head | head_only: true | 0.005 / 1 | 10"}},
      {v1::Preset::HEAD, {"head | head_only: true | 0.005 / 1 | 2"}},
      {v1::Preset::PARTIAL, {"last 1 block | last_blocks: 1 | 0.0005 / 1 | 2"}},
      {v1::Preset::FULL, {"everything | everything: true | 0.0001 / 1 | 2"}},
      {v1::Preset::GRADUAL,
       {"head | head_only: true | 0.001 / 1 | 0.25",
        "last 1 block | last_blocks: 1 | 0.001 / 2.6 | 0.25",
        "last 2 blocks | last_blocks: 2 | 0.001 / 2.6 | 0.25",
        "last 3 blocks | last_blocks: 3 | 0.001 / 2.6 | 0.25",
        "everything | everything: true | 0.001 / 2.6 | 1"}},
      {v1::Preset::HEAD_THEN_FULL,
       {"head | head_only: true | 0.005 / 1 | 1",
        "everything | everything: true | 0.0001 / 1 | 2"}},
      {v1::Preset::CHAIN_THAW,
       {"head | head_only: true | 0.005 / 1 | 0.25",
        "embeddings | everything: true and_not { last_blocks: 3 } | 0.0001 / 1 | 0.25",
        "block 0 | last_blocks: 3 and_not { last_blocks: 2 } | 0.0001 / 1 | 0.25",
        "block 1 | last_blocks: 2 and_not { last_blocks: 1 } | 0.0001 / 1 | 0.25",
        "block 2 | last_blocks: 1 and_not { last_blocks: 0 } | 0.0001 / 1 | 0.25",
        "everything | everything: true | 0.0001 / 1 | 1"}},
      {v1::Preset::BITFIT,
       {"biases and head | any_of { values { kind: BIASES } values { head_only: true } } | "
        "0.001 / 1 | 2"}},
      {v1::Preset::SFT, {"everything | everything: true | 0.0001 / 1 | 2"}}};
  for (const Case& one : cases) {
    const v1::Training training = Resolved(PresetExample(one.name), ContextOf(3));
    EXPECT_EQ(Lines(training), one.phases) << v1::Preset::Name_Name(one.name);
    EXPECT_FALSE(training.has_preset());
    for (const v1::Phase& phase : training.phases()) {
      EXPECT_EQ(phase.schedule().shape(), one.name == v1::Preset::SFT
                                              ? v1::Schedule::COSINE
                                              : v1::Schedule::SLANTED_TRIANGULAR);
    }
  }
}

TEST(PresetProgramTest, ALanguageModelsEmbeddingsThawWithItsFirstBlocks) {
  v1::JobSpec spec = PresetExample(v1::Preset::CHAIN_THAW);
  SpecContext context = ContextOf(2);
  spec.mutable_training()->mutable_language_modeling();
  context.artifacts["model-1"].mutable_model()->set_model_type("gpt2");
  const std::vector<std::string> lines = Lines(Resolved(spec, context));
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_THAT(
      lines[1],
      HasSubstr("embeddings and first blocks | everything: true and_not { last_blocks: 1 }"));
  EXPECT_THAT(lines[2], HasSubstr("block 1 | last_blocks: 1 and_not { last_blocks: 0 }"));
}

TEST(PresetProgramTest, WhatIsGivenReplacesTheRule) {
  v1::JobSpec spec = PresetExample(v1::Preset::PARTIAL);
  v1::Preset* preset = spec.mutable_training()->mutable_preset();
  preset->set_last_blocks(5);
  preset->set_learning_rate(1e-5);
  preset->set_epochs(7);
  EXPECT_EQ(Lines(Resolved(spec, ContextOf(12))),
            std::vector<std::string>{"last 5 blocks | last_blocks: 5 | 1e-05 / 1 | 7"});
  preset->clear_last_blocks();
  EXPECT_EQ(Resolved(spec, ContextOf(12)).phases(0).selector().last_blocks(), 4);
  preset->set_name(v1::Preset::GRADUAL);
  preset->set_epochs_per_phase(0.5);
  const v1::Training gradual = Resolved(spec, ContextOf(2));
  ASSERT_EQ(gradual.phases_size(), 4);
  for (const v1::Phase& phase : gradual.phases()) EXPECT_EQ(phase.learning_rate(), 1e-5);
  EXPECT_EQ(gradual.phases(0).epochs(), 0.5);
  EXPECT_EQ(gradual.phases(3).epochs(), 7);
  // The head's rate stays its own where the head trains alone.
  preset->set_name(v1::Preset::HEAD_THEN_FULL);
  EXPECT_EQ(Resolved(spec, ContextOf(2)).phases(0).learning_rate(), 5e-3);
  EXPECT_EQ(Resolved(spec, ContextOf(2)).phases(1).learning_rate(), 1e-5);
}

TEST(PresetProgramTest, AScheduleOfTheJobTakesThePlaceOfThePhases) {
  v1::JobSpec spec = PresetExample(v1::Preset::GRADUAL);
  spec.mutable_training()->mutable_schedule()->set_shape(v1::Schedule::ONE_CYCLE);
  const v1::Training training = Resolved(spec, ContextOf(3));
  for (const v1::Phase& phase : training.phases()) EXPECT_FALSE(phase.has_schedule());
  EXPECT_EQ(training.schedule().final_ratio(), 1e5);
}

TEST(PresetProgramTest, EveryProgramIsAValidSpecOfAnyDepth) {
  for (const PresetWord& word : PresetWords()) {
    EXPECT_EQ(*ParsePreset(word.name), word.preset);
    for (const int blocks : {1, 2, 6, 24, 61, 62, 63, 64, 123, 126, 400}) {
      for (const bool language : {false, true}) {
        v1::JobSpec spec = PresetExample(word.preset);
        SpecContext context = ContextOf(blocks);
        // Those of a language model belong to no text as a whole.
        if (language && word.preset == v1::Preset::FEATURES) continue;
        if (language) {
          spec.mutable_training()->mutable_language_modeling();
          context.artifacts["model-1"].mutable_model()->set_model_type("gpt2");
        }
        const auto resolved = ResolveSpec(spec, context);
        EXPECT_TRUE(resolved.ok()) << word.name << " " << blocks << ": " << resolved.status();
        EXPECT_EQ(CanonicalBytes(*ResolveSpec(*resolved, context)), CanonicalBytes(*resolved));
      }
    }
  }
}

TEST(PresetProgramTest, LoraTrainsItsPartsAndANewHead) {
  v1::Training training = PresetExample(v1::Preset::LORA).training();
  ExpandPreset(6, {.parameters = 110'000'000, .rows = 4000, .new_head = true}, &training);
  EXPECT_TRUE(training.added_part().has_lora());
  EXPECT_THAT(Lines(training).at(0), HasSubstr("added parts and head | kind: ADDED_PARTS"));
  training = PresetExample(v1::Preset::LORA).training();
  training.mutable_added_part()->mutable_ia3();
  ExpandPreset(6, {.parameters = 110'000'000, .rows = 4000}, &training);
  EXPECT_TRUE(training.added_part().has_ia3()) << "as given";
  EXPECT_THAT(Lines(training).at(0), HasSubstr("added parts | kind: ADDED_PARTS"));
}

TEST(PresetProgramTest, RefusesWhatDoesNotFit) {
  const std::string field = "spec.training.preset";
  struct Case {
    std::string field;
    std::string says;
    std::function<void(v1::Training*)> change;
  };
  const std::vector<Case> cases = {
      {field, "beside phases",
       [](auto* t) { *t->add_phases() = TrainingExample().training().phases(0); }},
      {field + ".name", "0 is not known", [](auto* t) { t->mutable_preset()->clear_name(); }},
      {field + ".learning_rate", "at most 1",
       [](auto* t) { t->mutable_preset()->set_learning_rate(2); }},
      {field + ".epochs", "-1", [](auto* t) { t->mutable_preset()->set_epochs(-1); }},
      {field + ".epochs_per_phase", "one phase",
       [](auto* t) {
         t->mutable_preset()->set_name(v1::Preset::FULL);
         t->mutable_preset()->set_epochs_per_phase(1);
       }},
      {field + ".last_blocks", "only PARTIAL",
       [](auto* t) { t->mutable_preset()->set_last_blocks(1); }}};
  for (const Case& one : cases) {
    v1::JobSpec spec = PresetExample(v1::Preset::GRADUAL);
    one.change(spec.mutable_training());
    const auto violations = ViolationsOf(ValidateSpec(spec));
    ASSERT_EQ(violations.size(), 1u) << one.says << ValidateSpec(spec);
    EXPECT_EQ(violations[0].field, one.field);
    EXPECT_THAT(violations[0].description, HasSubstr(one.says));
  }
}

TEST(ParsePresetTest, AnUnknownNameIsToldTheOthers) {
  EXPECT_THAT(std::string(ParsePreset("thaw").status().message()),
              testing::AllOf(HasSubstr("\"thaw\""), HasSubstr("head, partial, full, gradual, ")));
}

}  // namespace
}  // namespace thaw
