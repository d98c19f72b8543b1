// DistilBERT (arXiv 1910.01108): BERT's encoder without token types, pooler and dropout behind
// attention; a classifier of two layers with ReLU between them.
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/model/family.h"
#include "worker/model/post_norm_encoder.h"

namespace thaw {
namespace {

constexpr const char* kDistilBertTokenTables[] = {"word_embeddings.weight",
                                                  "vocab_projector.weight", "vocab_projector.bias"};
constexpr int32_t kDistilBertPadding = 0;

EncoderSpec ReadDistilBert(ConfigFields& fields, ModelConfig* config) {
  EncoderSpec distil;
  const char* const dim = fields.Spelling("dim", "hidden_size");
  const char* const heads = fields.Spelling("n_heads", "num_attention_heads");
  config->vocab_size = fields.Size("vocab_size", 1, 30522);
  config->hidden_size = fields.Size(dim, 1, 768);
  config->num_layers = fields.Size(fields.Spelling("n_layers", "num_hidden_layers"), 1, 6);
  config->max_positions = distil.position_rows = fields.Size("max_position_embeddings", 1, 512);
  distil.num_heads = fields.Size(heads, 1, 12);
  distil.intermediate_size = fields.Size("hidden_dim", 1, 3072);
  distil.pad_token_id = fields.TokenId("pad_token_id", kDistilBertPadding);
  distil.activation = distil.language_model_activation = fields.Activation("activation", "gelu");
  distil.classifier_relu = true;
  distil.embedding_dropout = distil.output_dropout = fields.Real("dropout", 0, 1, 0.1);
  distil.attention_output_dropout = 0;
  distil.attention_dropout = fields.Real("attention_dropout", 0, 1, 0.1);
  distil.classifier_dropout = fields.Real("seq_classif_dropout", 0, 1, 0.2);
  fields.Only("is_decoder", false);
  fields.Only("add_cross_attention", false);
  fields.Only("is_encoder_decoder", false);
  fields.Only("pruned_heads", nlohmann::json::object());
  // Sinusoids are in the files like any other table, and transformers trains them as such; dropout
  // of another head; what old files say of tying, which we see in the files.
  fields.Ignore({"sinusoidal_pos_embds", "qa_dropout", "tie_weights_"});
  fields.Divides(heads, distil.num_heads, dim, config->hidden_size);
  return distil;
}

const EncoderNames kDistilBertNames = {
    .prefix = "distilbert.",
    .layers = "transformer.layer.",
    .token_types = nullptr,
    .query = "attention.q_lin",
    .key = "attention.k_lin",
    .value = "attention.v_lin",
    .attention_output = "attention.out_lin",
    .attention_norm = "sa_layer_norm",
    .intermediate = "ffn.lin1",
    .output = "ffn.lin2",
    .output_norm = "output_layer_norm",
    .pooler = nullptr,
    .dense = "pre_classifier",
    .classifier = "classifier",
    .transform = "vocab_transform",
    .transform_norm = "vocab_layer_norm",
    .language_model_output = "vocab_projector",
    .language_model_bias = "vocab_projector.bias",
    .base_parts = {"embeddings.", "transformer."},
    .heads = {"pre_classifier.", "classifier.", "vocab_", "qa_outputs."},
    .buffers = {"embeddings.position_ids"},
};

absl::StatusOr<std::unique_ptr<Model>> LoadDistilBert(ModelConfig config,
                                                      const std::string& directory,
                                                      const std::optional<HeadSpec>& head) {
  ConfigFields fields(config.source);
  const EncoderSpec distil = ReadDistilBert(fields, &config);
  auto model = std::make_unique<PostNormEncoder>(std::move(config), distil, kDistilBertNames);
  THAW_RETURN_IF_ERROR(model->Load(directory, head));
  return std::unique_ptr<Model>(std::move(model));
}

}  // namespace

const Family kDistilBertFamily = {
    "distilbert",
    "DistilBertForSequenceClassification",
    "DistilBertForMaskedLM",
    [](ConfigFields& fields, ModelConfig* config) { ReadDistilBert(fields, config); },
    LoadDistilBert,
    kDistilBertTokenTables,
    kDistilBertPadding};

}  // namespace thaw
