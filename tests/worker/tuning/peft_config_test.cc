// Every option that changes what an adapter computes is honoured or refused by name.
#include "worker/tuning/peft_config.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace thaw {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

json Minimal() { return {{"peft_type", "LORA"}, {"target_modules", {"q_proj", "v_proj"}}}; }

absl::StatusOr<v1::AddedPart> Parse(const json& changes) {
  json config = Minimal();
  config.update(changes);
  return ParsePeftConfig(config.dump());
}

TEST(PeftConfig, MissingFieldsHavePeftsDefaults) {
  const auto part = Parse(json::object());
  ASSERT_TRUE(part.ok()) << part.status();
  const v1::Lora& lora = part->lora();
  EXPECT_EQ(lora.rank(), 8);
  EXPECT_EQ(lora.alpha(), 8);
  EXPECT_EQ(lora.dropout(), 0);
  EXPECT_EQ(lora.bias(), v1::Lora::NO_BIAS);
  EXPECT_FALSE(lora.rank_stabilized());
  EXPECT_FALSE(lora.dora());
  EXPECT_THAT(lora.target_modules(), ElementsAre("q_proj", "v_proj"));
}

TEST(PeftConfig, EveryFieldIsRead) {
  const auto part = Parse({{"r", 4},
                           {"lora_alpha", 12},
                           {"lora_dropout", 0.25},
                           {"bias", "lora_only"},
                           {"target_modules", ".*attn.*"},
                           {"exclude_modules", {"k_proj"}},
                           {"modules_to_save", {"score"}},
                           {"layers_to_transform", {1, 2}},
                           {"layers_pattern", "layers"},
                           {"rank_pattern", {{"q_proj", 2}}},
                           {"alpha_pattern", {{"q_proj", 3.5}}},
                           {"use_rslora", true},
                           {"use_dora", true},
                           {"fan_in_fan_out", true},
                           {"init_lora_weights", "gaussian"}});
  ASSERT_TRUE(part.ok()) << part.status();
  const v1::Lora& lora = part->lora();
  EXPECT_EQ(lora.rank(), 4);
  EXPECT_EQ(lora.alpha(), 12);
  EXPECT_EQ(lora.dropout(), 0.25);
  EXPECT_EQ(lora.bias(), v1::Lora::TARGETS);
  EXPECT_EQ(lora.target_pattern(), ".*attn.*");
  EXPECT_THAT(lora.exclude_modules(), ElementsAre("k_proj"));
  EXPECT_THAT(lora.modules_to_save(), ElementsAre("score"));
  EXPECT_THAT(lora.layers_to_transform(), ElementsAre(1, 2));
  EXPECT_EQ(lora.rank_pattern().at("q_proj"), 2);
  EXPECT_EQ(lora.alpha_pattern().at("q_proj"), 3.5);
  EXPECT_TRUE(lora.rank_stabilized());
  EXPECT_TRUE(lora.dora());
  EXPECT_EQ(Parse({{"layers_to_transform", 1}})->lora().layers_to_transform_size(), 1);
  EXPECT_EQ(Parse({{"target_modules", "all-linear"}})->lora().target_pattern(), "");
}

TEST(PeftConfig, WhatChangesTheMathematicsIsRefusedByName) {
  const struct {
    json changes;
    const char* field;
    const char* message;
  } cases[] = {
      {{{"peft_type", "LOHA"}}, "peft_type", "\"LOHA\" is not supported"},
      {{{"peft_type", nullptr}}, "peft_type", "no adapter of PEFT"},
      {{{"target_modules", nullptr}}, "target_modules", "is missing"},
      {{{"target_modules", {1}}}, "target_modules", "names or an expression"},
      {{{"exclude_modules", ".*k"}}, "exclude_modules", "list of module names"},
      {{{"bias", "some"}}, "bias", "none, all or lora_only"},
      {{{"r", 0}}, "r", "whole number from 1"},
      {{{"lora_alpha", "8"}}, "lora_alpha", "expected a number"},
      {{{"lora_dropout", 1}}, "lora_dropout", "expected a number"},
      {{{"layers_to_transform", {-1}}}, "layers_to_transform", "numbers of layers"},
      {{{"rank_pattern", {{"q", 0}}}}, "rank_pattern", "positive numbers"},
      {{{"init_lora_weights", "pissa"}}, "init_lora_weights", "changes the base's weights"},
      {{{"init_lora_weights", "olora"}}, "init_lora_weights", "changes the base's weights"},
      {{{"init_lora_weights", "loftq"}}, "init_lora_weights", "changes the base's weights"},
      {{{"init_lora_weights", "corda"}}, "init_lora_weights", "changes the base's weights"},
      {{{"lora_bias", true}}, "lora_bias", "unknown to this peft_type"},
      {{{"layer_replication", {{0, 2}}}}, "layer_replication", "unknown to this peft_type"},
      {{{"target_parameters", {"experts"}}}, "target_parameters", "unknown to this peft_type"},
      {{{"trainable_token_indices", {1}}}, "trainable_token_indices", "unknown to this peft_type"},
      {{{"alora_invocation_tokens", {1}}}, "alora_invocation_tokens", "unknown to this peft_type"},
      {{{"use_qalora", true}}, "use_qalora", "unknown to this peft_type"},
      {{{"use_bdlora", {{"nblocks", 2}}}}, "use_bdlora", "unknown to this peft_type"},
      {{{"megatron_config", {{"a", 1}}}}, "megatron_config", "unknown to this peft_type"},
      {{{"loftq_config", {{"loftq_bits", 4}}}}, "loftq_config", "unknown to this peft_type"},
      {{{"ensure_weight_tying", true}}, "ensure_weight_tying", "unknown to this peft_type"},
      {{{"of_the_future", 3}}, "of_the_future", "unknown to this peft_type"},
  };
  for (const auto& [changes, field, message] : cases) {
    const auto part = Parse(changes);
    ASSERT_FALSE(part.ok()) << changes;
    EXPECT_THAT(std::string(part.status().message()),
                AllOf(HasSubstr(field), HasSubstr(message), HasSubstr("adapter_config.json")))
        << changes;
  }
}

TEST(PeftConfig, WhatChangesNothingIsTolerated) {
  for (const json& changes :
       {json{{"of_the_future", nullptr}}, json{{"of_the_future", false}},
        json{{"of_the_future", json::array()}}, json{{"runtime_config", {{"a", 1}}}},
        json{{"peft_version", "9.9.9"}}, json{{"megatron_core", "megatron.core"}},
        json{{"qalora_group_size", 16}}, json{{"inference_mode", false}}}) {
    const auto part = Parse(changes);
    EXPECT_TRUE(part.ok()) << part.status();
  }
  EXPECT_FALSE(ParsePeftConfig("[]").ok());
  EXPECT_FALSE(ParsePeftConfig("{\"peft_type\":\"LORA\",\"peft_type\":\"LORA\"}").ok());
}

TEST(PeftConfig, WhatIsWrittenIsReadAgain) {
  auto part = Parse({{"r", 4},
                     {"lora_alpha", 12},
                     {"lora_dropout", 0.25},
                     {"bias", "all"},
                     {"rank_pattern", {{"q_proj", 2}}},
                     {"alpha_pattern", {{"q_proj", 3.5}}},
                     {"modules_to_save", {"score"}},
                     {"use_rslora", true},
                     {"use_dora", true}});
  ASSERT_TRUE(part.ok()) << part.status();
  PeftTarget target;
  target.base_model = "base";
  target.task_type = "SEQ_CLS";
  target.modules = {"q_proj", "v_proj"};
  target.saved = {"score"};
  target.fan_in_fan_out = true;
  const std::string text = PeftConfigJson(*part, target);
  const auto again = ParsePeftConfig(text);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->ShortDebugString(), part->ShortDebugString());
  EXPECT_EQ(json::parse(text)["task_type"], "SEQ_CLS");
  EXPECT_EQ(json::parse(text)["fan_in_fan_out"], true);
}

TEST(PeftConfig, PromptsAndPrefixes) {
  for (const char* type : {"PROMPT_TUNING", "PREFIX_TUNING"}) {
    // The least that PEFT writes, and what it may write besides.
    const json config = {{"peft_type", type},
                         {"num_virtual_tokens", 7},
                         {"token_dim", 48},
                         {"modules_to_save", {"score"}}};
    const auto part = ParsePeftConfig(config.dump());
    ASSERT_TRUE(part.ok()) << part.status();
    EXPECT_EQ(part->has_prompt_tuning(), std::string(type) == "PROMPT_TUNING");
    const auto again = ParsePeftConfig(PeftConfigJson(*part, {.token_dim = 48, .stacks = 1}));
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->prompt_tuning().virtual_tokens() + again->prefix_tuning().virtual_tokens(), 7);
    for (const auto& [field, value] : std::map<std::string, json>{{"num_virtual_tokens", nullptr},
                                                                  {"num_virtual_tokens", 0},
                                                                  {"target_modules", {"q_proj"}},
                                                                  {"of_the_future", 3}}) {
      json changed = config;
      changed[field] = value;
      EXPECT_THAT(std::string(ParsePeftConfig(changed.dump()).status().message()),
                  HasSubstr(field));
    }
  }
  for (const char* type : {"P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT"}) {
    EXPECT_THAT(
        std::string(ParsePeftConfig(json{{"peft_type", type}, {"num_virtual_tokens", 7}}.dump())
                        .status()
                        .message()),
        AllOf(HasSubstr(type), HasSubstr("not supported")));
  }
}

TEST(PeftConfig, Ia3) {
  const json config = {{"peft_type", "IA3"},
                       {"target_modules", {"k_proj", "down_proj"}},
                       {"feedforward_modules", {"down_proj"}},
                       {"modules_to_save", {"score"}},
                       {"init_ia3_weights", true}};
  const auto part = ParsePeftConfig(config.dump());
  ASSERT_TRUE(part.ok()) << part.status();
  EXPECT_THAT(part->ia3().target_modules(), ElementsAre("k_proj", "down_proj"));
  EXPECT_THAT(part->ia3().feedforward_modules(), ElementsAre("down_proj"));
  EXPECT_THAT(part->ia3().modules_to_save(), ElementsAre("score"));
  for (const auto& [field, value] : std::map<std::string, json>{{"target_modules", ".*k"},
                                                                {"target_modules", nullptr},
                                                                {"r", 4},
                                                                {"exclude_modules", {"k_proj"}}}) {
    json changed = config;
    changed[field] = value;
    EXPECT_THAT(std::string(ParsePeftConfig(changed.dump()).status().message()), HasSubstr(field));
  }
  PeftTarget target;
  target.modules = {"down_proj", "k_proj"};
  target.feedforward = {"down_proj"};
  const auto again = ParsePeftConfig(PeftConfigJson(*part, target));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->ia3().target_modules_size(), 2);
  EXPECT_THAT(again->ia3().feedforward_modules(), ElementsAre("down_proj"));
}

}  // namespace
}  // namespace thaw
