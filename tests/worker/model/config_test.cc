#include "worker/model/config.h"

#include "common/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace thaw {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

json Base() {
  return {{"model_type", "bert"},          {"vocab_size", 30522},       {"hidden_size", 384},
          {"num_hidden_layers", 6},        {"num_attention_heads", 12}, {"intermediate_size", 1536},
          {"max_position_embeddings", 512}};
}

TEST(ModelConfig, FillsDefaultsAsTransformersDoes) {
  const auto config = ParseModelConfig(Base().dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->hidden_size, 384);
  EXPECT_EQ(config->max_positions, 512);
  EXPECT_EQ(config->head, HeadKind::kNone);
  EXPECT_EQ(config->initializer_range, 0.02);
  EXPECT_THAT(config->labels, ElementsAre("LABEL_0", "LABEL_1"));
  EXPECT_EQ(config->problem, ProblemType::kSingleLabel);
}

TEST(ModelConfig, HonoursWhatIsWritten) {
  json source = Base();
  source.update({{"hidden_act", "gelu_new"},
                 {"layer_norm_eps", 1e-5},
                 {"hidden_dropout_prob", 0.2},
                 {"classifier_dropout", nullptr},
                 {"id2label",
                  {{"0", "b"},
                   {"1", "a"},
                   {"10", "k"},
                   {"2", "c"},
                   {"3", "d"},
                   {"4", "e"},
                   {"5", "f"},
                   {"6", "g"},
                   {"7", "h"},
                   {"8", "i"},
                   {"9", "j"}}},
                 {"architectures", {"BertForSequenceClassification"}},
                 {"problem_type", "multi_label_classification"}});
  const auto config = ParseModelConfig(source.dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head, HeadKind::kClassifier);
  EXPECT_EQ(config->labels.back(), "k");
  EXPECT_EQ(config->problem, ProblemType::kMultiLabel);
}

TEST(ModelConfig, RefusesByNameWhatWouldChangeTheMathematics) {
  const struct {
    json change;
    const char* field;
    const char* message;
  } cases[] = {
      {{{"hidden_act", "mish"}}, "hidden_act", "\"mish\" is not supported"},
      {{{"use_alibi", true}}, "use_alibi", "\"use_alibi\": true is unknown to this model_type"},
      {{{"hidden_act", 3}}, "hidden_act", "expected a string"},
      {{{"position_embedding_type", "relative_key"}}, "position_embedding_type", "relative_key"},
      {{{"is_decoder", true}}, "is_decoder", "true is not supported"},
      {{{"add_cross_attention", true}}, "add_cross_attention", "true is not supported"},
      {{{"pruned_heads", {{"1", {2}}}}}, "pruned_heads", "not supported"},
      {{{"quantization_config", {{"bits", 4}}}}, "quantization_config.quant_method", "only"},
      {{{"quantization_config", 4}}, "quantization_config", "object"},
      {{{"num_attention_heads", 7}}, "num_attention_heads", "divisor of hidden_size 384"},
      {{{"num_attention_heads", 0}}, "num_attention_heads", "found 0"},
      {{{"hidden_size", 384.5}}, "hidden_size", "found 384.5"},
      {{{"hidden_size", -1}}, "hidden_size", "found -1"},
      {{{"vocab_size", 1e300}}, "vocab_size", "expected a whole number"},
      {{{"vocab_size", nullptr}}, "vocab_size", "missing"},
      {{{"hidden_dropout_prob", 1.0}}, "hidden_dropout_prob", "found 1.0"},
      {{{"hidden_dropout_prob", "x"}}, "hidden_dropout_prob", "found \"x\""},
      {{{"layer_norm_eps", -1e-9}}, "layer_norm_eps", "found -1e-09"},
      {{{"problem_type", "ranking"}}, "problem_type", "ranking"},
      {{{"id2label", {{"0", "a"}, {"2", "b"}}}}, "id2label", "found none for 1"},
      {{{"id2label", {{"0", "a"}, {"1", "a"}}}}, "id2label", "stands for two ids"},
      {{{"id2label", {{"0", "a"}, {"1", "b"}}}, {"num_labels", 3}},
       "num_labels",
       "id2label names 2 labels, found 3"},
      {{{"id2label", {{"0", "a"}, {"1", "b"}}}, {"label2id", {{"a", 1}, {"b", 0}}}},
       "label2id",
       "contradicts"},
  };
  for (const auto& [change, field, message] : cases) {
    json source = Base();
    source.update(change);
    const absl::Status status = ParseModelConfig(source.dump()).status();
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << change;
    EXPECT_THAT(status.ToString(), HasSubstr(message)) << change;
    const auto violations = ViolationsOf(status);
    ASSERT_EQ(violations.size(), 1u) << change;
    EXPECT_EQ(violations[0].field, field);
  }
}

TEST(ModelConfig, RefusesUnknownModelsAndBadJson) {
  json other = Base();
  other["model_type"] = "mamba";
  const absl::Status unknown = ParseModelConfig(other.dump()).status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(unknown.ToString(), HasSubstr("\"mamba\""));
  for (const char* text : {"", "[]", "{", "{\"model_type\": 1}", "{\"a\": 1, \"a\": 2}"}) {
    EXPECT_FALSE(ParseModelConfig(text).ok()) << text;
  }
}

TEST(ModelConfig, WritesAClassifiersConfiguration) {
  json source = Base();
  source.update({{"torch_dtype", "float16"},
                 {"architectures", {"BertModel"}},
                 {"num_labels", 9},
                 {"task_specific_params", 7}});
  auto config = ParseModelConfig(source.dump()).value();
  config.head = HeadKind::kClassifier;
  config.labels = {"x", "y", "z"};
  const auto written = json::parse(ResultConfigJson(config, "float32"));
  EXPECT_EQ(written["torch_dtype"], "float32");
  EXPECT_EQ(written["architectures"], json({"BertForSequenceClassification"}));
  EXPECT_EQ(written["problem_type"], "single_label_classification");
  EXPECT_EQ(written["task_specific_params"], 7);
  EXPECT_FALSE(written.contains("num_labels"));
  EXPECT_THAT(ParseModelConfig(written.dump()).value().labels, ElementsAre("x", "y", "z"));
}

}  // namespace
}  // namespace thaw
