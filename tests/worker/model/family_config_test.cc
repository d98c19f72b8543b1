// config.json by family: what is missing is as transformers has it, every option that changes the
// mathematics acts or is refused by name, and what describes does neither.
#include "common/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/model/model_fixture.h"
#include "worker/model/alibi.h"

namespace thaw {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using torch::Tensor;

TEST(FamilyConfig, AnEmptyOneIsWhatTransformersMakesOfIt) {
  const struct {
    const char* model_type;
    int64_t vocab_size, hidden_size, num_layers, max_positions;
    bool causal, token_types;
  } cases[] = {
      {"roberta", 50265, 768, 12, 510, false, false},
      {"distilbert", 30522, 768, 6, 512, false, false},
      {"gpt2", 50257, 768, 12, 1024, true, false},
      {"bloom", 250880, 64, 2, kUnboundedPositions, true, false},
  };
  for (const auto& expected : cases) {
    const auto config = ParseModelConfig(json({{"model_type", expected.model_type}}).dump());
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->vocab_size, expected.vocab_size) << expected.model_type;
    EXPECT_EQ(config->hidden_size, expected.hidden_size) << expected.model_type;
    EXPECT_EQ(config->num_layers, expected.num_layers) << expected.model_type;
    EXPECT_EQ(config->max_positions, expected.max_positions) << expected.model_type;
    EXPECT_EQ(config->causal, expected.causal) << expected.model_type;
    EXPECT_EQ(config->token_types, expected.token_types) << expected.model_type;
    EXPECT_FALSE(config->encoder_decoder) << expected.model_type;
  }
}

TEST(FamilyConfig, BothSpellingsAreRead) {
  const struct {
    json usual, alias;
  } cases[] = {
      {{{"model_type", "gpt2"}, {"n_embd", 32}, {"n_layer", 3}, {"n_head", 4}, {"n_positions", 9}},
       {{"model_type", "gpt2"},
        {"hidden_size", 32},
        {"num_hidden_layers", 3},
        {"num_attention_heads", 4},
        {"max_position_embeddings", 9}}},
      {{{"model_type", "bloom"}, {"n_embed", 32}, {"n_layer", 3}, {"n_head", 4}},
       {{"model_type", "bloom"},
        {"hidden_size", 32},
        {"num_hidden_layers", 3},
        {"num_attention_heads", 4}}},
      {{{"model_type", "distilbert"}, {"dim", 32}, {"n_layers", 3}, {"n_heads", 4}},
       {{"model_type", "distilbert"},
        {"hidden_size", 32},
        {"num_hidden_layers", 3},
        {"num_attention_heads", 4}}},
  };
  for (const auto& [usual, alias] : cases) {
    for (const json& source : {usual, alias}) {
      const auto config = ParseModelConfig(source.dump());
      ASSERT_TRUE(config.ok()) << config.status();
      EXPECT_EQ(config->hidden_size, 32) << source;
      EXPECT_EQ(config->num_layers, 3) << source;
    }
    json both = usual;
    both.update(alias);
    EXPECT_TRUE(ParseModelConfig(both.dump()).ok()) << both;
    both["hidden_size"] = 64;
    EXPECT_THAT(ParseModelConfig(both.dump()).status().ToString(), HasSubstr("contradicts"))
        << both;
  }
  json usual = cases[0].usual;
  usual["max_position_embeddings"] = 10;
  EXPECT_THAT(ParseModelConfig(usual.dump()).status().ToString(),
              HasSubstr("contradicts \"n_positions\": 9, found 10"));
}

TEST(FamilyConfig, RefusesByNameWhatWouldChangeTheMathematics) {
  const struct {
    const char* model_type;
    json change;
    const char* field;
    const char* message;
  } cases[] = {
      {"roberta", {{"is_decoder", true}}, "is_decoder", "true is not supported"},
      {"roberta", {{"add_cross_attention", true}}, "add_cross_attention", "true is not supported"},
      {"roberta",
       {{"position_embedding_type", "relative_key"}},
       "position_embedding_type",
       "relative_key"},
      {"roberta", {{"hidden_act", "mish"}}, "hidden_act", "\"mish\" is not supported"},
      {"roberta",
       {{"num_attention_heads", 7}},
       "num_attention_heads",
       "divisor of hidden_size 768"},
      {"roberta",
       {{"max_position_embeddings", 2}},
       "max_position_embeddings",
       "expected more than pad_token_id + 1"},
      {"roberta", {{"layer_norm_eps", 2}}, "layer_norm_eps", "found 2"},
      {"roberta", {{"classifier_dropout", 1.5}}, "classifier_dropout", "found 1.5"},
      {"roberta", {{"pad_token_id", -1}}, "pad_token_id", "found -1"},
      {"roberta", {{"pad_token_id", nullptr}}, "pad_token_id", "found null"},
      {"roberta", {{"pruned_heads", {{"0", {1}}}}}, "pruned_heads", "not supported"},
      {"roberta", {{"use_alibi", true}}, "use_alibi", "unknown to this model_type"},
      {"distilbert", {{"activation", "tanh"}}, "activation", "\"tanh\" is not supported"},
      {"distilbert", {{"n_heads", 7}}, "n_heads", "divisor of dim 768"},
      {"distilbert", {{"num_attention_heads", 7}}, "num_attention_heads", "divisor of dim 768"},
      {"distilbert", {{"dropout", 1}}, "dropout", "found 1"},
      {"distilbert", {{"seq_classif_dropout", "x"}}, "seq_classif_dropout", "found \"x\""},
      {"distilbert", {{"attention_dropout", -0.1}}, "attention_dropout", "found -0.1"},
      {"distilbert", {{"hidden_dim", 0}}, "hidden_dim", "found 0"},
      {"distilbert", {{"layer_norm_eps", 1e-5}}, "layer_norm_eps", "unknown to this model_type"},
      {"gpt2", {{"add_cross_attention", true}}, "add_cross_attention", "true is not supported"},
      {"gpt2", {{"activation_function", "tanh"}}, "activation_function", "\"tanh\""},
      {"gpt2", {{"n_head", 7}}, "n_head", "divisor of n_embd 768"},
      {"gpt2", {{"n_inner", 0}}, "n_inner", "found 0"},
      {"gpt2", {{"scale_attn_weights", 1}}, "scale_attn_weights", "expected true or false"},
      {"gpt2",
       {{"scale_attn_by_inverse_layer_idx", "no"}},
       "scale_attn_by_inverse_layer_idx",
       "expected true or false"},
      {"gpt2", {{"resid_pdrop", 1.0}}, "resid_pdrop", "found 1.0"},
      {"gpt2", {{"embd_pdrop", 1.0}}, "embd_pdrop", "found 1.0"},
      {"gpt2", {{"attn_pdrop", 1.0}}, "attn_pdrop", "found 1.0"},
      {"gpt2", {{"layer_norm_epsilon", -1}}, "layer_norm_epsilon", "found -1"},
      {"gpt2", {{"n_positions", 1.5}}, "n_positions", "found 1.5"},
      {"gpt2", {{"sliding_window", 8}}, "sliding_window", "unknown to this model_type"},
      {"bloom",
       {{"slow_but_exact", true}, {"pretraining_tp", 4}},
       "slow_but_exact",
       "true is not supported where pretraining_tp is 4"},
      {"bloom", {{"pretraining_tp", 0}}, "pretraining_tp", "found 0"},
      {"bloom", {{"n_inner", 100}}, "n_inner", "100 is not supported, only 256"},
      {"bloom", {{"n_head", 7}}, "n_head", "divisor of hidden_size 64"},
      {"bloom", {{"hidden_dropout", 1.0}}, "hidden_dropout", "found 1.0"},
      {"bloom", {{"attention_dropout", 1.0}}, "attention_dropout", "found 1.0"},
      {"bloom",
       {{"apply_residual_connection_post_layernorm", 0}},
       "apply_residual_connection_post_layernorm",
       "expected true or false"},
      {"bloom", {{"alibi", true}}, "alibi", "unknown to this model_type"},
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

// The logits of a fixture whose config.json is changed.
Tensor ChangedLogits(const std::string& fixture, const json& changes) {
  ModelVariant variant{.fixture = fixture};
  variant.config_changes = changes;
  auto model = LoadModel(variant.Make(), std::nullopt);
  EXPECT_TRUE(model.ok()) << model.status();
  ModelFixture recorded(fixture, std::nullopt);
  return LogitsOf(**model, recorded.Batch(0).packed);
}

TEST(FamilyConfig, OptionsAct) {
  const struct {
    const char* fixture;
    json changes;
  } cases[] = {
      {"roberta", {{"hidden_act", "relu"}}},
      {"roberta", {{"layer_norm_eps", 0.1}}},
      {"roberta", {{"num_attention_heads", 2}}},
      {"roberta", {{"pad_token_id", 0}}},
      {"distilbert", {{"activation", "relu"}}},
      {"distilbert", {{"n_heads", 2}}},
      {"gpt2", {{"activation_function", "relu"}}},
      {"gpt2", {{"layer_norm_epsilon", 0.1}}},
      {"gpt2", {{"n_head", 2}}},
      {"gpt2", {{"scale_attn_weights", false}}},
      {"gpt2", {{"scale_attn_by_inverse_layer_idx", true}}},
      {"bloom-4heads", {{"layer_norm_epsilon", 0.1}}},
      {"bloom-4heads", {{"n_head", 2}}},
      {"bloom-4heads", {{"apply_residual_connection_post_layernorm", true}}},
  };
  for (const auto& [fixture, changes] : cases) {
    const Tensor recorded = ChangedLogits(fixture, json::object());
    EXPECT_GT(MaxDifference(ChangedLogits(fixture, changes), recorded), 1e-3) << fixture << changes;
  }
}

TEST(FamilyConfig, DefaultsAndDescriptionsChangeNothing) {
  const struct {
    const char* fixture;
    json changes;  // null: the field is missing
  } cases[] = {
      {"roberta-cls",
       {{"hidden_act", nullptr},
        {"layer_norm_eps", nullptr},
        {"classifier_dropout", 0.5},
        {"output_past", true},
        {"tie_word_embeddings", false},
        {"position_embedding_type", "absolute"}}},
      {"distilbert-cls",
       {{"activation", nullptr},
        {"pad_token_id", nullptr},
        {"sinusoidal_pos_embds", true},
        {"qa_dropout", 0.7},
        {"seq_classif_dropout", 0.7},
        {"tie_weights_", true}}},
      {"gpt2",
       {{"activation_function", nullptr},
        {"layer_norm_epsilon", nullptr},
        {"scale_attn_weights", nullptr},
        {"scale_attn_by_inverse_layer_idx", nullptr},
        {"reorder_and_upcast_attn", true},
        {"summary_type", "last"},
        {"summary_activation", "tanh"},
        {"summary_use_proj", true},
        {"summary_first_dropout", 0.9},
        {"n_ctx", 17},
        {"n_special", 0},
        {"predict_special_tokens", true},
        {"attn_pdrop", 0.9}}},
      {"bloom-5heads",
       {{"layer_norm_epsilon", nullptr},
        {"apply_residual_connection_post_layernorm", nullptr},
        {"hidden_dropout", 0.9},
        {"n_inner", 160},
        {"pretraining_tp", 4},
        {"slow_but_exact", false},
        {"attention_softmax_in_fp32", true},
        {"bias_dropout_fusion", true},
        {"masked_softmax_fusion", true},
        {"offset_alibi", 100},
        {"seq_length", 2048},
        {"skip_bias_add", true},
        {"skip_bias_add_qkv", false}}},
      {"bloom-5heads", {{"pretraining_tp", 1}, {"slow_but_exact", true}}},
  };
  for (const auto& [fixture, changes] : cases) {
    const Tensor recorded = ChangedLogits(fixture, json::object());
    EXPECT_EQ(MaxDifference(ChangedLogits(fixture, changes), recorded), 0) << fixture << changes;
  }
}

// A missing pad_token_id is the family's default, whose embedding is not trained; null is none, and
// then every embedding is.
TEST(FamilyConfig, NullPaddingIsNoPadding) {
  for (const char* fixture : {"bert-cls", "distilbert-cls"}) {
    for (const json& padding : {json(0), json(nullptr)}) {
      ModelVariant variant{.fixture = fixture};
      variant.config_changes = {{"pad_token_id", padding}};
      const auto model = LoadModel(variant.Make(), std::nullopt).value();
      MakeTrainable(*model);
      FixtureBatch batch = ModelFixture(fixture, std::nullopt).Batch(0);
      batch.packed.token_ids[2] = 0;
      MeanLoss(*model, batch, {.training = true}).backward();
      const std::string base = std::string(fixture).substr(0, std::string(fixture).find('-'));
      const Tensor gradient =
          model->parameters().Find(base + ".embeddings.word_embeddings.weight")->tensor.grad();
      EXPECT_EQ(gradient[0].norm().item<double>() > 0, padding.is_null()) << fixture << padding;
    }
  }
}

// As they were published, with what no one reads any more.
TEST(FamilyConfig, PublishedOnesAreRead) {
  const struct {
    const char* name;
    const char* text;
    HeadKind head;
    int64_t max_positions;
  } cases[] = {
      {"gpt2", R"({"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1, "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256,
        "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024,
        "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1,
        "summary_activation": null, "summary_first_dropout": 0.1, "summary_proj_to_labels": true,
        "summary_type": "cls_index", "summary_use_proj": true, "task_specific_params": {
        "text-generation": {"do_sample": true, "max_length": 50}}, "vocab_size": 50257})",
       HeadKind::kLanguageModel, 1024},
      {"distilgpt2", R"({"_num_labels": 1, "activation_function": "gelu_new", "architectures": [
        "GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256, "embd_pdrop": 0.1,
        "eos_token_id": 50256, "id2label": {"0": "LABEL_0"}, "initializer_range": 0.02, "label2id":
        {"LABEL_0": 0}, "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd":
        768, "n_head": 12, "n_layer": 6, "n_positions": 1024, "resid_pdrop": 0.1, "vocab_size":
        50257})",
       HeadKind::kLanguageModel, 1024},
      {"bloom-560m", R"({"apply_residual_connection_post_layernorm": false, "attention_dropout":
        0.0, "attention_softmax_in_fp32": true, "architectures": ["BloomForCausalLM"],
        "bias_dropout_fusion": true, "bos_token_id": 1, "eos_token_id": 2, "hidden_dropout": 0.0,
        "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "masked_softmax_fusion": true,
        "model_type": "bloom", "n_embed": 1024, "n_inner": null, "n_layer": 24,
        "num_attention_heads": 16, "offset_alibi": 100, "pad_token_id": 3, "pretraining_tp": 1,
        "skip_bias_add": true, "skip_bias_add_qkv": false, "transformers_version": "4.20.0",
        "unk_token_id": 0, "use_cache": true, "vocab_size": 250880})",
       HeadKind::kLanguageModel, kUnboundedPositions},
      {"roberta-base", R"({"architectures": ["RobertaForMaskedLM"], "attention_probs_dropout_prob":
        0.1, "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps":
        1e-05, "max_position_embeddings": 514, "model_type": "roberta", "num_attention_heads": 12,
        "num_hidden_layers": 12, "pad_token_id": 1, "type_vocab_size": 1, "vocab_size": 50265})",
       HeadKind::kLanguageModel, 512},
      {"distilbert-base-uncased-finetuned-sst-2-english", R"({"activation": "gelu", "architectures":
        ["DistilBertForSequenceClassification"], "attention_dropout": 0.1, "dim": 768, "dropout":
        0.1, "finetuning_task": "sst-2", "hidden_dim": 3072, "id2label": {"0": "NEGATIVE", "1":
        "POSITIVE"}, "initializer_range": 0.02, "label2id": {"NEGATIVE": 0, "POSITIVE": 1},
        "max_position_embeddings": 512, "model_type": "distilbert", "n_heads": 12, "n_layers": 6,
        "output_past": true, "pad_token_id": 0, "qa_dropout": 0.1, "seq_classif_dropout": 0.2,
        "sinusoidal_pos_embds": false, "tie_weights_": true, "vocab_size": 30522})",
       HeadKind::kClassifier, 512},
  };
  for (const auto& published : cases) {
    const auto config = ParseModelConfig(published.text);
    ASSERT_TRUE(config.ok()) << published.name << ": " << config.status();
    EXPECT_EQ(config->head, published.head) << published.name;
    EXPECT_EQ(config->max_positions, published.max_positions) << published.name;
  }
}

// BLOOM's and BloombergGPT's numbers of heads; a reference that counts as transformers does.
TEST(Alibi, SlopesAreTransformers) {
  for (const int64_t heads : {1, 4, 5, 8, 16, 40, 112}) {
    const double exponent = std::floor(std::log2(static_cast<double>(heads)));
    const auto regular = static_cast<int64_t>(std::exp2(exponent));
    const double base = std::exp2(-std::exp2(-(exponent - 3)));
    const double extra = std::exp2(-std::exp2(-(exponent - 2)));
    const std::vector<double> slopes = AlibiSlopes(heads);
    ASSERT_EQ(static_cast<int64_t>(slopes.size()), heads);
    for (int64_t i = 0; i < heads; ++i) {
      const double power = static_cast<double>(i < regular ? i + 1 : 2 * (i - regular) + 1);
      EXPECT_NEAR(slopes[static_cast<size_t>(i)], std::pow(i < regular ? base : extra, power),
                  1e-12)
          << heads << " heads, head " << i;
    }
  }
  EXPECT_EQ(AlibiSlopes(8), (std::vector<double>{1. / 2, 1. / 4, 1. / 8, 1. / 16, 1. / 32, 1. / 64,
                                                 1. / 128, 1. / 256}));
  const Tensor bias = AlibiBias(8, 3);
  EXPECT_TRUE(at::equal(bias[0], torch::tensor({-1.0f, -0.5f, 0.0f, 0.5f, 1.0f})));
}

}  // namespace
}  // namespace thaw
