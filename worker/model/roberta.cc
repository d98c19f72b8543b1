// RoBERTa (arXiv 1907.11692): BERT's encoder with positions that begin behind the padding id, a
// classifier of two layers without the pooler, and a masked language model's head whose activation
// is always gelu.
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/model/family.h"
#include "worker/model/post_norm_encoder.h"

namespace thaw {
namespace {

constexpr const char* kRobertaTokenTables[] = {"word_embeddings.weight", "lm_head.bias",
                                               "decoder.weight", "decoder.bias"};
constexpr int32_t kRobertaPadding = 1;

EncoderSpec ReadRoberta(ConfigFields& fields, ModelConfig* config) {
  EncoderSpec roberta;
  config->vocab_size = fields.Size("vocab_size", 1, 50265);
  config->hidden_size = fields.Size("hidden_size", 1, 768);
  config->num_layers = fields.Size("num_hidden_layers", 1, 12);
  roberta.num_heads = fields.Size("num_attention_heads", 1, 12);
  roberta.intermediate_size = fields.Size("intermediate_size", 1, 3072);
  roberta.token_types = fields.Size("type_vocab_size", 1, 2);
  roberta.pad_token_id = fields.TokenId("pad_token_id", kRobertaPadding);
  if (roberta.pad_token_id < 0) {
    fields.Fail("pad_token_id", "expected a token id, behind which positions begin, found null");
  }
  roberta.positions_skip_padding = true;
  roberta.position_rows = fields.Size("max_position_embeddings", 1, 512);
  config->max_positions = roberta.position_rows - roberta.pad_token_id - 1;
  if (config->max_positions < 1) {
    fields.Fail("max_position_embeddings",
                absl::StrCat("expected more than pad_token_id + 1, behind which positions begin, "
                             "found ",
                             roberta.position_rows));
  }
  roberta.activation = fields.Activation("hidden_act", "gelu");
  roberta.norm_epsilon = fields.Real("layer_norm_eps", 0, 1, 1e-12);
  const double dropout = fields.Real("hidden_dropout_prob", 0, 1, 0.1);
  roberta.embedding_dropout = roberta.attention_output_dropout = roberta.output_dropout = dropout;
  roberta.attention_dropout = fields.Real("attention_probs_dropout_prob", 0, 1, 0.1);
  roberta.classifier_dropout = roberta.classifier_input_dropout =
      fields.Real("classifier_dropout", 0, 1, dropout);
  fields.Only("position_embedding_type", "absolute");
  fields.Only("is_decoder", false);
  fields.Only("add_cross_attention", false);
  fields.Only("is_encoder_decoder", false);
  fields.Only("pruned_heads", nlohmann::json::object());
  fields.Divides("num_attention_heads", roberta.num_heads, "hidden_size", config->hidden_size);
  return roberta;
}

const EncoderNames kRobertaNames = {
    .prefix = "roberta.",
    .layers = "encoder.layer.",
    .token_types = "embeddings.token_type_embeddings.weight",
    .query = "attention.self.query",
    .key = "attention.self.key",
    .value = "attention.self.value",
    .attention_output = "attention.output.dense",
    .attention_norm = "attention.output.LayerNorm",
    .intermediate = "intermediate.dense",
    .output = "output.dense",
    .output_norm = "output.LayerNorm",
    .pooler = "pooler.dense",
    .dense = "classifier.dense",
    .classifier = "classifier.out_proj",
    .transform = "lm_head.dense",
    .transform_norm = "lm_head.layer_norm",
    .language_model_output = "lm_head.decoder",
    .language_model_bias = "lm_head.bias",
    .base_parts = {"embeddings.", "encoder.", "pooler."},
    .heads = {"roberta.pooler.", "classifier.", "lm_head.", "qa_outputs."},
    .buffers = {"embeddings.position_ids", "embeddings.token_type_ids"},
};

absl::StatusOr<std::unique_ptr<Model>> LoadRoberta(ModelConfig config, const std::string& directory,
                                                   const std::optional<HeadSpec>& head) {
  ConfigFields fields(config.source);
  const EncoderSpec roberta = ReadRoberta(fields, &config);
  auto model = std::make_unique<PostNormEncoder>(std::move(config), roberta, kRobertaNames);
  THAW_RETURN_IF_ERROR(model->Load(directory, head));
  return std::unique_ptr<Model>(std::move(model));
}

}  // namespace

const Family kRobertaFamily = {
    "roberta",
    "RobertaForSequenceClassification",
    "RobertaForMaskedLM",
    [](ConfigFields& fields, ModelConfig* config) { ReadRoberta(fields, config); },
    LoadRoberta,
    kRobertaTokenTables,
    kRobertaPadding,
    /*positions_follow_padding=*/true};

}  // namespace thaw
