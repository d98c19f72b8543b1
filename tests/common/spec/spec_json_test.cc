#include "common/spec/spec_json.h"

#include "common/base/status.h"
#include "gmock/gmock.h"
#include "tests/common/spec/spec_examples.h"

namespace thaw {
namespace {

using testing::HasSubstr;

TEST(SpecJsonTest, WhatIsWrittenIsReadBack) {
  for (const v1::JobSpec& spec : {TrainingExample(), PredictionExample()}) {
    const auto read = ParseSpecJson(SpecToJson(spec));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(CanonicalBytes(*read), CanonicalBytes(spec));
  }
}

TEST(SpecJsonTest, TakesBothSpellingsOfNames) {
  const auto spec = ParseSpecJson(R"({"baseModel": "m", "training": {"maxLength": 64},
                                      "labels": {"any_key": "v"}, "max_runtime": "3600s"})");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->base_model(), "m");
  EXPECT_EQ(spec->training().max_length(), 64);
  EXPECT_EQ(spec->max_runtime().seconds(), 3600);
}

TEST(SpecJsonTest, NamesEveryUnknownFieldAndTheOneMeant) {
  const auto spec = ParseSpecJson(R"({"base_modle": "m", "training": {"phases": [
      {"learning_rate": 1}, {"lerning_rate": 1, "zzz": 2}]}})");
  const auto violations = ViolationsOf(spec.status());
  ASSERT_EQ(violations.size(), 3u) << spec.status();
  EXPECT_EQ(violations[0].field, "base_modle");
  EXPECT_THAT(violations[0].description, HasSubstr("did you mean base_model?"));
  EXPECT_EQ(violations[1].field, "training.phases[1].lerning_rate");
  EXPECT_THAT(violations[1].description, HasSubstr("did you mean learning_rate?"));
  EXPECT_EQ(violations[2].field, "training.phases[1].zzz");
  EXPECT_THAT(violations[2].description, HasSubstr("fields: name, selector, learning_rate"));
}

TEST(SpecJsonTest, NamesTheValuesThatAFieldMayHave) {
  const auto spec = ParseSpecJson(R"({"training": {"precision": "bf16"}})");
  const auto violations = ViolationsOf(spec.status());
  ASSERT_EQ(violations.size(), 1u) << spec.status();
  EXPECT_EQ(violations[0].field, "training.precision");
  EXPECT_EQ(violations[0].description, "\"bf16\" is none of FP32, BF16");
  EXPECT_TRUE(ParseSpecJson(R"({"training": {"precision": "BF16"}})").ok());
}

TEST(SpecJsonTest, RefusesWhatIsNoSpec) {
  const std::pair<const char*, const char*> cases[] = {
      {"[]", "JSON object"},
      {"{\"priority\": \"high\"}", "priority"},
      {"{\"training\": {}, \"prediction\": {}}", "work"},
      {"{\"priority\": 1, \"priority\": 2}", "priority"},
      {"{\"priority\": 1", "1"},
      {"", "end of input"}};
  for (const auto& [text, says] : cases) {
    const auto spec = ParseSpecJson(text);
    EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(spec.status().message()), HasSubstr(says)) << text;
  }
}

}  // namespace
}  // namespace thaw
