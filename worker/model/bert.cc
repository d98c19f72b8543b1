// BERT (arXiv 1810.04805): a classifier on the pooler, or the masked language model's head.
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/model/family.h"
#include "worker/model/post_norm_encoder.h"

namespace thaw {
namespace {

constexpr const char* kBertTokenTables[] = {"word_embeddings.weight", "predictions.bias",
                                            "decoder.weight", "decoder.bias"};
constexpr int32_t kBertPadding = 0;

EncoderSpec ReadBert(ConfigFields& fields, ModelConfig* config) {
  EncoderSpec bert;
  config->vocab_size = fields.Size("vocab_size", 1);
  config->hidden_size = fields.Size("hidden_size", 1);
  config->num_layers = fields.Size("num_hidden_layers", 1);
  config->max_positions = bert.position_rows = fields.Size("max_position_embeddings", 1);
  config->token_types = true;
  bert.num_heads = fields.Size("num_attention_heads", 1);
  bert.intermediate_size = fields.Size("intermediate_size", 1);
  bert.token_types = fields.Size("type_vocab_size", 1, 2);
  bert.pad_token_id = fields.TokenId("pad_token_id", kBertPadding);
  bert.activation = bert.language_model_activation = fields.Activation("hidden_act", "gelu");
  bert.norm_epsilon = fields.Real("layer_norm_eps", 0, 1, 1e-12);
  const double dropout = fields.Real("hidden_dropout_prob", 0, 1, 0.1);
  bert.embedding_dropout = bert.attention_output_dropout = bert.output_dropout = dropout;
  bert.attention_dropout = fields.Real("attention_probs_dropout_prob", 0, 1, 0.1);
  bert.classifier_dropout = fields.Real("classifier_dropout", 0, 1, dropout);
  fields.Only("position_embedding_type", "absolute");
  fields.Only("is_decoder", false);
  fields.Only("add_cross_attention", false);
  fields.Only("is_encoder_decoder", false);
  fields.Only("pruned_heads", nlohmann::json::object());
  // Sizes of a pooler that BERT's own classifiers do not have.
  fields.Ignore({"pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
                 "pooler_size_per_head", "pooler_type", "directionality"});
  fields.Divides("num_attention_heads", bert.num_heads, "hidden_size", config->hidden_size);
  return bert;
}

const EncoderNames kBertNames = {
    .prefix = "bert.",
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
    .dense = nullptr,
    .classifier = "classifier",
    .transform = "cls.predictions.transform.dense",
    .transform_norm = "cls.predictions.transform.LayerNorm",
    .language_model_output = "cls.predictions.decoder",
    .language_model_bias = "cls.predictions.bias",
    .base_parts = {"embeddings.", "encoder.", "pooler."},
    .heads = {"bert.pooler.", "classifier.", "cls.", "qa_outputs."},
    .buffers = {"embeddings.position_ids"},
};

absl::StatusOr<std::unique_ptr<Model>> LoadBert(ModelConfig config, const std::string& directory,
                                                const std::optional<HeadSpec>& head) {
  ConfigFields fields(config.source);
  const EncoderSpec bert = ReadBert(fields, &config);
  auto model = std::make_unique<PostNormEncoder>(std::move(config), bert, kBertNames);
  THAW_RETURN_IF_ERROR(model->Load(directory, head));
  return std::unique_ptr<Model>(std::move(model));
}

}  // namespace

const Family kBertFamily = {
    "bert",
    "BertForSequenceClassification",
    "BertForMaskedLM",
    [](ConfigFields& fields, ModelConfig* config) { ReadBert(fields, config); },
    LoadBert,
    kBertTokenTables,
    kBertPadding};

}  // namespace thaw
