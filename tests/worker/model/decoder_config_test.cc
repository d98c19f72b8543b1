// config.json of LLaMA, Mistral, Qwen2, Qwen3 and T5: what is missing is as transformers has it,
// and what would change the mathematics is refused by name. That options act is recorded
// (variants_test.cc).
#include "common/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/model/config.h"

namespace thaw {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

TEST(DecoderConfig, AnEmptyOneIsWhatTransformersMakesOfIt) {
  const struct {
    const char* model_type;
    int64_t vocab_size, hidden_size, num_layers, max_positions;
    bool causal, encoder_decoder;
  } cases[] = {
      {"llama", 32000, 4096, 32, 2048, true, false},
      {"mistral", 32000, 4096, 32, 131072, true, false},
      {"qwen2", 151936, 4096, 32, 32768, true, false},
      {"qwen3", 151936, 4096, 32, 32768, true, false},
      {"t5", 32128, 512, 6, kUnboundedPositions, false, true},
  };
  for (const auto& expected : cases) {
    const auto config = ParseModelConfig(json({{"model_type", expected.model_type}}).dump());
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->vocab_size, expected.vocab_size) << expected.model_type;
    EXPECT_EQ(config->hidden_size, expected.hidden_size) << expected.model_type;
    EXPECT_EQ(config->num_layers, expected.num_layers) << expected.model_type;
    EXPECT_EQ(config->max_positions, expected.max_positions) << expected.model_type;
    EXPECT_EQ(config->causal, expected.causal) << expected.model_type;
    EXPECT_EQ(config->encoder_decoder, expected.encoder_decoder) << expected.model_type;
  }
}

TEST(DecoderConfig, TakesWhatPeoplesFilesHold) {
  const json cases[] = {
      {{"model_type", "llama"}, {"pretraining_tp", 8}, {"is_llama_config", true}},
      {{"model_type", "llama"}, {"rope_interleaved", false}, {"rope_scaling", nullptr}},
      {{"model_type", "llama"}, {"pad_token_id", -1}, {"num_key_value_heads", nullptr}},
      {{"model_type", "llama"}, {"rope_parameters", {{"rope_type", "default"}, {"factor", 1.0}}}},
      {{"model_type", "llama"}, {"partial_rotary_factor", 1.0}},
      {{"model_type", "mistral"}, {"sliding_window", nullptr}, {"head_dim", 128}},
      {{"model_type", "qwen2"},
       {"use_sliding_window", false},
       {"sliding_window", 131072},
       {"max_window_layers", 21}},
      {{"model_type", "t5"}, {"n_positions", 512}, {"output_past", true}},
      {{"model_type", "t5"}, {"architectures", {"T5WithLMHeadModel"}}},
      {{"model_type", "t5"}, {"feed_forward_proj", "gated-gelu"}, {"dense_act_fn", "gelu_new"}},
  };
  for (const json& source : cases) {
    const auto config = ParseModelConfig(source.dump());
    EXPECT_TRUE(config.ok()) << source << config.status();
  }
}

TEST(DecoderConfig, DynamicPositionsHaveNoEnd) {
  const json source = {{"model_type", "llama"},
                       {"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}};
  EXPECT_EQ(ParseModelConfig(source.dump())->max_positions, kUnboundedPositions);
}

TEST(DecoderConfig, AnEncoderAloneDecodesNothing) {
  const json source = {
      {"model_type", "t5"}, {"architectures", {"T5EncoderModel"}}, {"is_encoder_decoder", false}};
  const auto config = ParseModelConfig(source.dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FALSE(config->encoder_decoder);
  EXPECT_EQ(config->head, HeadKind::kNone);
}

json Rope(json parameters) { return {{"rope_parameters", std::move(parameters)}}; }

TEST(DecoderConfig, RefusesByNameWhatWouldChangeTheMathematics) {
  const struct {
    const char* model_type;
    json change;
    const char* field;
    const char* message;
  } cases[] = {
      {"llama",
       {{"rope_scaling", {{"type", "longrope"}, {"factor", 4.0}}}},
       "rope_scaling.type",
       "\"longrope\" is not supported"},
      {"qwen2", Rope({{"rope_type", "mrope"}}), "rope_parameters.rope_type", "\"mrope\""},
      {"llama", Rope({{"rope_type", "linear"}}), "rope_parameters.factor", "missing"},
      {"llama", Rope({{"rope_type", "dynamic"}}), "rope_parameters.factor", "missing"},
      {"llama", Rope({{"rope_type", "linear"}, {"factor", 0}}), "rope_parameters.factor",
       "found 0"},
      {"llama", Rope({{"rope_type", "llama3"}, {"factor", 8.0}, {"high_freq_factor", 4.0}}),
       "rope_parameters.low_freq_factor", "missing"},
      {"llama",
       Rope({{"rope_type", "llama3"},
             {"factor", 8.0},
             {"low_freq_factor", 4.0},
             {"high_freq_factor", 1.0}}),
       "rope_parameters.high_freq_factor", "expected more than low_freq_factor 4, found 1"},
      {"llama", Rope({{"rope_type", "yarn"}, {"factor", 4.0}, {"truncate", 1}}),
       "rope_parameters.truncate", "expected true or false"},
      {"llama", Rope({{"rope_type", "yarn"}, {"factor", 4.0}, {"beta_fast", "x"}}),
       "rope_parameters.beta_fast", "found \"x\""},
      {"llama", Rope({{"rope_type", "default"}, {"mrope_section", {1, 2}}}),
       "rope_parameters.mrope_section", "unknown to this model_type"},
      {"llama", Rope({{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}),
       "rope_parameters.partial_rotary_factor", "0.5 is not supported"},
      {"llama", {{"partial_rotary_factor", 0.25}}, "partial_rotary_factor", "only 1.0"},
      {"llama", {{"rope_scaling", "linear"}}, "rope_scaling", "expected an object"},
      {"llama", {{"rope_theta", 0}}, "rope_theta", "found 0"},
      {"llama", {{"num_key_value_heads", 5}}, "num_key_value_heads", "divisor of num_attention"},
      {"llama", {{"num_attention_heads", 7}}, "num_attention_heads", "divisor of hidden_size 4096"},
      {"llama", {{"head_dim", 7}}, "head_dim", "expected an even number"},
      {"llama", {{"hidden_act", "mish"}}, "hidden_act", "\"mish\" is not supported"},
      {"llama", {{"attention_bias", 1}}, "attention_bias", "expected true or false"},
      {"llama", {{"mlp_bias", "no"}}, "mlp_bias", "expected true or false"},
      {"llama", {{"attention_dropout", 1.0}}, "attention_dropout", "found 1.0"},
      {"llama", {{"rms_norm_eps", -1}}, "rms_norm_eps", "found -1"},
      {"llama", {{"max_position_embeddings", 0}}, "max_position_embeddings", "found 0"},
      {"llama", {{"sliding_window", 8}}, "sliding_window", "unknown to this model_type"},
      {"llama", {{"rope_interleaved", true}}, "rope_interleaved", "unknown to this model_type"},
      {"llama", {{"pad_token_id", -2}}, "pad_token_id", "found -2"},
      {"mistral", {{"attention_bias", true}}, "attention_bias", "unknown to this model_type"},
      {"mistral", {{"layer_types", {"full_attention"}}}, "layer_types", "unknown"},
      {"mistral", {{"sliding_window", 0}}, "sliding_window", "found 0"},
      {"qwen2", {{"attention_bias", true}}, "attention_bias", "unknown to this model_type"},
      {"qwen2", {{"head_dim", 5}}, "head_dim", "even"},
      {"qwen2", {{"layer_types", {"full_attention"}}}, "layer_types", "each of 32 layers"},
      {"qwen2",
       {{"num_hidden_layers", 1}, {"layer_types", {"chunked_attention"}}},
       "layer_types",
       "\"chunked_attention\" is not supported"},
      {"qwen3",
       {{"num_hidden_layers", 1}, {"layer_types", {"sliding_attention"}}},
       "layer_types",
       "needs use_sliding_window"},
      {"qwen3", {{"mlp_bias", true}}, "mlp_bias", "unknown to this model_type"},
      {"qwen3", {{"max_window_layers", -1}}, "max_window_layers", "found -1"},
      {"t5", {{"feed_forward_proj", "gated-mish"}}, "feed_forward_proj", "\"mish\""},
      {"t5",
       {{"feed_forward_proj", "gated-gelu"}, {"dense_act_fn", "relu"}},
       "dense_act_fn",
       "only \"gelu_new\""},
      {"t5", {{"is_gated_act", true}}, "is_gated_act", "true is not supported"},
      {"t5", {{"is_decoder", true}}, "is_decoder", "true is not supported"},
      {"t5", {{"is_encoder_decoder", false}}, "is_encoder_decoder", "false is not supported"},
      {"t5",
       {{"architectures", {"T5ForSequenceClassification"}}},
       "architectures",
       "T5ForSequenceClassification"},
      {"t5", {{"relative_attention_num_buckets", 2}}, "relative_attention_num_buckets", "found 2"},
      {"t5",
       {{"relative_attention_max_distance", 16}},
       "relative_attention_max_distance",
       "expected more than half"},
      {"t5", {{"dropout_rate", 1.0}}, "dropout_rate", "found 1.0"},
      {"t5", {{"scale_decoder_outputs", 1}}, "scale_decoder_outputs", "expected true or false"},
      {"t5", {{"d_kv", 0}}, "d_kv", "found 0"},
      // Each of them times a text's length is memory of the relative positions' biases.
      {"t5", {{"num_heads", 257}}, "num_heads", "from 1 to 256, found 257"},
      {"t5", {{"d_kv", 1025}}, "d_kv", "from 1 to 1024, found 1025"},
      {"t5",
       {{"relative_attention_num_buckets", 1025}},
       "relative_attention_num_buckets",
       "from 4 to 1024, found 1025"},
      {"t5", {{"d_model", 64}, {"hidden_size", 32}}, "hidden_size", "contradicts"},
  };
  for (const auto& [model_type, change, field, message] : cases) {
    json source = {{"model_type", model_type}};
    source.update(change);
    const absl::Status status = ParseModelConfig(source.dump()).status();
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << model_type << change;
    EXPECT_THAT(status.ToString(), HasSubstr(message)) << model_type << change;
    const auto violations = ViolationsOf(status);
    ASSERT_EQ(violations.size(), 1u) << model_type << change;
    EXPECT_EQ(violations[0].field, field) << model_type;
  }
}

}  // namespace
}  // namespace thaw
