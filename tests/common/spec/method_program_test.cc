#include "common/spec/method_program.h"

#include "gmock/gmock.h"
#include "tests/common/spec/spec_examples.h"

namespace thaw {
namespace {

TEST(MethodProgramTest, GradualThawsTheHeadThenOneMoreBlockAPhaseThenEverything) {
  const auto phases = MethodProgram(Method::kGradual, 3);
  ASSERT_EQ(phases.size(), 5u);
  EXPECT_TRUE(phases[0].selector().head_only());
  for (int i = 1; i <= 3; ++i) EXPECT_EQ(phases[i].selector().last_blocks(), i);
  EXPECT_TRUE(phases[4].selector().everything());
  for (const v1::Phase& phase : phases) {
    EXPECT_EQ(phase.schedule().shape(), v1::Schedule::SLANTED_TRIANGULAR);
  }
  EXPECT_EQ(phases[4].learning_rate_decay(), 2.6);
}

TEST(MethodProgramTest, OptionsReplaceDefaults) {
  const auto partial = MethodProgram(Method::kPartial, 12, {.epochs = 5, .learning_rate = 1e-5});
  ASSERT_EQ(partial.size(), 1u);
  EXPECT_EQ(partial[0].selector().last_blocks(), 4);
  EXPECT_EQ(partial[0].epochs(), 5);
  EXPECT_EQ(partial[0].learning_rate(), 1e-5);
  EXPECT_EQ(MethodProgram(Method::kPartial, 12, {.last_blocks = 1})[0].selector().last_blocks(), 1);
  const auto gradual = MethodProgram(Method::kGradual, 2, {.epochs = 4, .epochs_per_block = 0.5});
  EXPECT_EQ(gradual.front().epochs(), 0.5);
  EXPECT_EQ(gradual.back().epochs(), 4);
}

TEST(MethodProgramTest, EveryProgramIsAValidSpec) {
  for (const char* name : {"head", "partial", "gradual", "full"}) {
    const auto method = ParseMethod(name);
    ASSERT_TRUE(method.ok());
    for (const int blocks : {1, 2, 6, 24, 62, 63, 126, 400}) {
      v1::JobSpec spec = TrainingExample();
      SpecContext context = ContextExample();
      context.artifacts["model-1"].mutable_model()->set_blocks(blocks);
      spec.mutable_training()->clear_phases();
      for (const v1::Phase& phase : MethodProgram(*method, blocks)) {
        *spec.mutable_training()->add_phases() = phase;
      }
      const auto resolved = ResolveSpec(spec, context);
      EXPECT_TRUE(resolved.ok()) << name << " " << blocks << ": " << resolved.status();
    }
  }
}

TEST(ParseMethodTest, AnUnknownNameIsToldTheOthers) {
  EXPECT_THAT(std::string(ParseMethod("lora").status().message()),
              testing::AllOf(testing::HasSubstr("\"lora\""),
                             testing::HasSubstr("head, partial, gradual or full")));
}

}  // namespace
}  // namespace thaw
