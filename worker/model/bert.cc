// BERT encoder (arXiv 1810.04805; post-norm blocks) with pooler and classifier, or with the masked
// language model's head.
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/model/family.h"
#include "worker/model/model_loader.h"
#include "worker/model/ops.h"
#include "worker/model/packed_rows.h"

namespace thaw {
namespace {

using torch::Tensor;

struct BertConfig {
  int64_t num_heads = 0;  // divides hidden_size
  int64_t intermediate_size = 0;
  int64_t type_vocab_size = 0;
  int64_t pad_token_id = 0;
  ActivationKind activation = ActivationKind::kGeluErf;
  double norm_epsilon = 1e-12;
  double hidden_dropout = 0.1;
  double attention_dropout = 0.1;
  double classifier_dropout = 0.1;
};

BertConfig ReadBert(ConfigFields& fields, ModelConfig* config) {
  BertConfig bert;
  config->vocab_size = fields.Size("vocab_size", 1);
  config->hidden_size = fields.Size("hidden_size", 1);
  config->num_layers = fields.Size("num_hidden_layers", 1);
  config->max_positions = fields.Size("max_position_embeddings", 1);
  bert.num_heads = fields.Size("num_attention_heads", 1);
  bert.intermediate_size = fields.Size("intermediate_size", 1);
  bert.type_vocab_size = fields.Size("type_vocab_size", 1, 2);
  bert.pad_token_id = fields.Size("pad_token_id", 0, 0);
  bert.activation = fields.Activation("hidden_act", "gelu");
  bert.norm_epsilon = fields.Real("layer_norm_eps", 0, 1, 1e-12);
  bert.hidden_dropout = fields.Real("hidden_dropout_prob", 0, 1, 0.1);
  bert.attention_dropout = fields.Real("attention_probs_dropout_prob", 0, 1, 0.1);
  bert.classifier_dropout = fields.Real("classifier_dropout", 0, 1, bert.hidden_dropout);
  fields.Only("position_embedding_type", "absolute");
  fields.Only("is_decoder", false);
  fields.Only("add_cross_attention", false);
  fields.Only("is_encoder_decoder", false);
  fields.Only("pruned_heads", nlohmann::json::object());
  // Sizes of a pooler that BERT's own classifiers do not have.
  fields.Ignore({"pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
                 "pooler_size_per_head", "pooler_type", "directionality"});
  if (config->hidden_size % bert.num_heads != 0) {
    fields.Fail("num_attention_heads",
                absl::StrCat("expected a divisor of hidden_size ", config->hidden_size, ", found ",
                             bert.num_heads));
  }
  return bert;
}

struct BertBlock {
  WeightPair query, key, value, attention_output, attention_norm, intermediate, output, output_norm;
};

// Where dropout acts within a group.
enum BertPlace : uint32_t { kEmbeddings, kAttention, kAttentionOutput, kOutput, kPooled };

class BertModel : public Model {
 public:
  BertModel(ModelConfig config, BertConfig bert) : Model(std::move(config)), bert_(bert) {}

  absl::Status Load(const std::string& directory, const std::optional<HeadSpec>& head);

  Rows Embed(const Packed& batch, const RunContext& context) override;
  Rows Block(int block, const Rows& rows, const RunContext& context) override;
  Tensor Hidden(const Rows& rows, const RunContext& context) override { return rows.data; }
  Tensor Head(const Rows& rows, const RunContext& context) override;
  Tensor OutputStates(const Rows& rows, const Tensor& selected, const RunContext& context) override;
  OutputLayer output_layer() const override { return {output_->tensor, output_bias_->tensor}; }

 private:
  void LoadBlock(ModelLoader& loader, int64_t index);
  void LoadClassifier(ModelLoader& loader, const std::optional<HeadSpec>& head, bool keeps);
  void LoadLanguageModel(ModelLoader& loader);

  const BertConfig bert_;
  const Parameter *word_ = nullptr, *position_ = nullptr, *type_ = nullptr;
  WeightPair embeddings_norm_, pooler_, classifier_, transform_, transform_norm_;
  const Parameter *output_ = nullptr, *output_bias_ = nullptr;
  std::vector<BertBlock> bert_blocks_;
};

void BertModel::LoadBlock(ModelLoader& loader, int64_t index) {
  const int64_t d = config_.hidden_size, wide = bert_.intermediate_size;
  const std::string scope = absl::StrCat("bert.encoder.layer.", index, ".");
  loader.StartGroup(absl::StrCat("block.", index));
  BertBlock block;
  block.query = loader.Linear(scope + "attention.self.query", d, d);
  block.key = loader.Linear(scope + "attention.self.key", d, d);
  block.value = loader.Linear(scope + "attention.self.value", d, d);
  block.attention_output = loader.Linear(scope + "attention.output.dense", d, d);
  block.attention_norm = loader.Norm(scope + "attention.output.LayerNorm", d);
  block.intermediate = loader.Linear(scope + "intermediate.dense", wide, d);
  block.output = loader.Linear(scope + "output.dense", d, wide);
  block.output_norm = loader.Norm(scope + "output.LayerNorm", d);
  bert_blocks_.push_back(block);
}

void BertModel::LoadClassifier(ModelLoader& loader, const std::optional<HeadSpec>& head,
                               bool keeps) {
  const int64_t d = config_.hidden_size;
  const int64_t labels = static_cast<int64_t>(config_.labels.size());
  if (!head || loader.Has("bert.pooler.dense.weight")) {
    pooler_ = loader.Linear("bert.pooler.dense", d, d);
  } else {
    pooler_ = loader.FreshLinear("bert.pooler.dense", d, d, head->seed, 1);
    loader.Warn("the base model has no pooler (bert.pooler.dense): drawn anew");
  }
  if (keeps) {
    classifier_ = loader.Linear("classifier", labels, d);
  } else {
    classifier_ = loader.FreshLinear("classifier", labels, d, head->seed, 2);
  }
}

void BertModel::LoadLanguageModel(ModelLoader& loader) {
  const int64_t d = config_.hidden_size;
  transform_ = loader.Linear("cls.predictions.transform.dense", d, d);
  transform_norm_ = loader.Norm("cls.predictions.transform.LayerNorm", d);
  output_bias_ = loader.Tensor("cls.predictions.bias", {config_.vocab_size});
  output_ = loader.TiedOutput("cls.predictions.decoder.weight", word_);
}

absl::Status BertModel::Load(const std::string& directory, const std::optional<HeadSpec>& head) {
  THAW_ASSIGN_OR_RETURN(Weights weights,
                        Weights::Open(directory, "bert.", {"embeddings.", "encoder.", "pooler."}));
  ModelLoader loader(&weights, this);
  const int64_t d = config_.hidden_size;
  loader.StartGroup("embeddings");
  word_ = loader.Tensor("bert.embeddings.word_embeddings.weight", {config_.vocab_size, d});
  position_ =
      loader.Tensor("bert.embeddings.position_embeddings.weight", {config_.max_positions, d});
  type_ = loader.Tensor("bert.embeddings.token_type_embeddings.weight", {bert_.type_vocab_size, d});
  embeddings_norm_ = loader.Norm("bert.embeddings.LayerNorm", d);
  for (int64_t i = 0; i < config_.num_layers; ++i) LoadBlock(loader, i);
  loader.StartGroup("head");
  const bool keeps = ChooseHead(head);
  switch (config_.head) {
    case HeadKind::kClassifier:
      LoadClassifier(loader, head, keeps);
      break;
    case HeadKind::kLanguageModel:
      LoadLanguageModel(loader);
      break;
    case HeadKind::kNone:
      if (loader.Has("bert.pooler.dense.weight"))
        pooler_ = loader.Linear("bert.pooler.dense", d, d);
      break;
  }
  return loader.Finish({"bert.pooler.", "classifier.", "cls.", "qa_outputs."},
                       {"embeddings.position_ids", "cls.predictions.decoder.bias"});
}

Rows BertModel::Embed(const Packed& batch, const RunContext& context) {
  EmbeddingInputs inputs{
      batch.token_ids, Positions(batch.cu_seqlens, context, batch.token_ids.device()),
      batch.token_type_ids, bert_.pad_token_id < config_.vocab_size ? bert_.pad_token_id : -1};
  CheckIds(inputs.ids, config_.vocab_size, "token id");
  CheckIds(inputs.positions, config_.max_positions, "position");
  CheckIds(inputs.types, bert_.type_vocab_size, "token type");
  const Tensor rows =
      EmbeddingNorm(PathOf(context, batch.token_ids), inputs, word_->tensor, position_->tensor,
                    type_->tensor, embeddings_norm_.w(), embeddings_norm_.b(), bert_.norm_epsilon,
                    Site(context, 0, kEmbeddings, bert_.hidden_dropout));
  return {rows, batch.cu_seqlens, Tensor(), {}};
}

Rows BertModel::Block(int index, const Rows& rows, const RunContext& context) {
  const BertBlock& block = bert_blocks_[static_cast<size_t>(index)];
  const Path path = PathOf(context, rows.data);
  const int64_t head_dim = config_.hidden_size / bert_.num_heads;
  const auto heads = [&](const Tensor& x) { return x.unflatten(1, {bert_.num_heads, head_dim}); };

  Rows in = rows;  // the rows that go through all of the block
  std::vector<Tensor> qkv;
  if (index + 1 == blocks() && config_.head == HeadKind::kClassifier && !context.all_rows) {
    in.data = FirstRows(rows.data, rows.cu_seqlens);
    in.cu_seqlens = UnitBounds(rows.cu_seqlens.size() - 1);
    qkv = {Linear(path, in.data, block.query.both())};
    const auto kv = Projections(path, rows.data, {block.key.both(), block.value.both()});
    qkv.insert(qkv.end(), kv.begin(), kv.end());
  } else {
    qkv = Projections(path, rows.data, {block.query.both(), block.key.both(), block.value.both()});
  }
  AttentionSpec spec;
  spec.q_bounds = in.cu_seqlens;
  spec.k_bounds = rows.cu_seqlens;
  spec.scale = 1 / std::sqrt(static_cast<double>(head_dim));
  spec.dropout = Site(context, index + 1, kAttention, bert_.attention_dropout);
  const Tensor attended = Attention(path, heads(qkv[0]), heads(qkv[1]), heads(qkv[2]), spec);
  const Tensor middle = ResidualNorm(
      path, Linear(path, attended, {block.attention_output.w(), Tensor()}),
      block.attention_output.b(), in.data, block.attention_norm.w(), block.attention_norm.b(),
      bert_.norm_epsilon, Site(context, index + 1, kAttentionOutput, bert_.hidden_dropout));
  in.data =
      ResidualNorm(path,
                   Mlp(path, bert_.activation, middle, block.intermediate.both(),
                       block.output.both(), DropoutSite()),
                   block.output.b(), middle, block.output_norm.w(), block.output_norm.b(),
                   bert_.norm_epsilon, Site(context, index + 1, kOutput, bert_.hidden_dropout));
  return in;
}

Tensor BertModel::Head(const Rows& rows, const RunContext& context) {
  const Path path = PathOf(context, rows.data);
  const Tensor first =
      OneRowEach(rows.data, rows.cu_seqlens) ? rows.data : FirstRows(rows.data, rows.cu_seqlens);
  const Tensor pooled = at::tanh(Linear(path, first, pooler_.both()));
  const DropoutSite site = Site(context, blocks() + 1, kPooled, bert_.classifier_dropout);
  return Linear(path, Dropout(path, pooled, site), classifier_.both());
}

Tensor BertModel::OutputStates(const Rows& rows, const Tensor& selected,
                               const RunContext& context) {
  const Path path = PathOf(context, rows.data);
  const Tensor states = selected.defined() ? GatherRows(rows.data, selected) : rows.data;
  const Tensor transformed =
      Activate(path, bert_.activation, Linear(path, states, transform_.both()));
  return Normalise(
      path, transformed,
      {NormKind::kLayer, transform_norm_.w(), transform_norm_.b(), bert_.norm_epsilon});
}

absl::StatusOr<std::unique_ptr<Model>> LoadBert(ModelConfig config, const std::string& directory,
                                                const std::optional<HeadSpec>& head) {
  ConfigFields fields(config.source);
  const BertConfig bert = ReadBert(fields, &config);
  auto model = std::make_unique<BertModel>(std::move(config), bert);
  THAW_RETURN_IF_ERROR(model->Load(directory, head));
  return std::unique_ptr<Model>(std::move(model));
}

}  // namespace

const Family kBertFamily = {
    "bert", "BertForSequenceClassification", "BertForMaskedLM",
    [](ConfigFields& fields, ModelConfig* config) { ReadBert(fields, config); }, LoadBert};

}  // namespace thaw
