// GPT-2 (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019): pre-norm
// blocks, learnt positions, projections stored as [in, out].
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/model/causal_decoder.h"
#include "worker/model/family.h"
#include "worker/model/ops.h"
#include "worker/model/packed_rows.h"

namespace thaw {
namespace {

constexpr const char* kGpt2TokenTables[] = {"wte.weight", "lm_head.weight"};

using torch::Tensor;

struct Gpt2Config {
  int64_t num_heads = 0;  // divides hidden_size
  int64_t inner_size = 0;
  ActivationKind activation = ActivationKind::kGeluTanh;
  double norm_epsilon = 1e-5;
  bool scales_scores = true;            // by 1 / √head_dim
  bool scales_scores_by_block = false;  // and by 1 / (block + 1)
  double embedding_dropout = 0.1;
  double attention_dropout = 0.1;
  double residual_dropout = 0.1;
};

Gpt2Config ReadGpt2(ConfigFields& fields, ModelConfig* config) {
  Gpt2Config gpt2;
  const char* const width = fields.Spelling("n_embd", "hidden_size");
  const char* const heads = fields.Spelling("n_head", "num_attention_heads");
  const char* const positions = fields.Spelling("n_positions", "max_position_embeddings");
  config->causal = true;
  config->vocab_size = fields.Size("vocab_size", 1, 50257);
  config->hidden_size = fields.Size(width, 1, 768);
  config->num_layers = fields.Size(fields.Spelling("n_layer", "num_hidden_layers"), 1, 12);
  config->max_positions = fields.Size(positions, 1, 1024);
  gpt2.num_heads = fields.Size(heads, 1, 12);
  gpt2.inner_size = fields.Size("n_inner", 1, 4 * config->hidden_size);
  gpt2.activation = fields.Activation("activation_function", "gelu_new");
  gpt2.norm_epsilon = fields.Real("layer_norm_epsilon", 0, 1, 1e-5);
  gpt2.scales_scores = fields.Flag("scale_attn_weights", true);
  gpt2.scales_scores_by_block = fields.Flag("scale_attn_by_inverse_layer_idx", false);
  gpt2.embedding_dropout = fields.Real("embd_pdrop", 0, 1, 0.1);
  gpt2.attention_dropout = fields.Real("attn_pdrop", 0, 1, 0.1);
  gpt2.residual_dropout = fields.Real("resid_pdrop", 0, 1, 0.1);
  fields.Only("add_cross_attention", false);
  fields.Only("is_encoder_decoder", false);
  fields.Only("pruned_heads", nlohmann::json::object());
  // The order of operations in half precision (we compute in fp32); the head of multiple choice;
  // what old files repeat or describe.
  fields.Ignore({"reorder_and_upcast_attn", "summary_activation", "summary_first_dropout",
                 "summary_proj_to_labels", "summary_type", "summary_use_proj", "n_ctx", "n_special",
                 "predict_special_tokens", "is_decoder", "_num_labels"});
  fields.Divides(heads, gpt2.num_heads, width, config->hidden_size);
  return gpt2;
}

struct Gpt2Block {
  WeightPair attention_norm, qkv, attention_output, mlp_norm, inner, outer;
};

// Where dropout acts within a group.
enum Gpt2Place : uint32_t { kGpt2Embeddings, kGpt2Attention, kGpt2AttentionOutput, kGpt2Output };

class Gpt2Model : public CausalDecoder {
 public:
  Gpt2Model(ModelConfig config, Gpt2Config gpt2) : CausalDecoder(std::move(config)), gpt2_(gpt2) {}

  absl::Status Load(const std::string& directory, const std::optional<HeadSpec>& head);

  Rows Embed(const Packed& batch, const RunContext& context) override;
  Rows Block(int block, const Rows& rows, const RunContext& context) override;

  KeyShape PrefixShape() const override {
    return {gpt2_.num_heads, config_.hidden_size / gpt2_.num_heads};
  }

 private:
  void LoadBlock(ModelLoader& loader, int64_t index);
  Rows EmbedPrompted(const Packed& batch, const RunContext& context);

  const Gpt2Config gpt2_;
  const Parameter *word_ = nullptr, *position_ = nullptr;
  std::vector<Gpt2Block> gpt2_blocks_;
};

void Gpt2Model::LoadBlock(ModelLoader& loader, int64_t index) {
  const int64_t d = config_.hidden_size;
  const std::string scope = absl::StrCat("transformer.h.", index, ".");
  loader.StartGroup(absl::StrCat("block.", index));
  Gpt2Block block;
  block.attention_norm = loader.Norm(scope + "ln_1", d);
  loader.StartKind(ParameterKind::kAttention);
  block.qkv = loader.InputMajorLinear(scope + "attn.c_attn", d, 3 * d);
  block.attention_output = loader.InputMajorLinear(scope + "attn.c_proj", d, d);
  block.mlp_norm = loader.Norm(scope + "ln_2", d);
  loader.StartKind(ParameterKind::kFeedForward);
  block.inner = loader.InputMajorLinear(scope + "mlp.c_fc", d, gpt2_.inner_size);
  block.outer = loader.InputMajorLinear(scope + "mlp.c_proj", gpt2_.inner_size, d);
  gpt2_blocks_.push_back(block);
}

absl::Status Gpt2Model::Load(const std::string& directory, const std::optional<HeadSpec>& head) {
  THAW_ASSIGN_OR_RETURN(Weights weights,
                        Weights::Open(directory, "transformer.", {"wte.", "wpe.", "h.", "ln_f."}));
  ModelLoader loader(&weights, this);
  loader.StartGroup("embeddings");
  loader.StartKind(ParameterKind::kEmbedding);
  word_ = loader.Tensor("transformer.wte.weight", {config_.vocab_size, config_.hidden_size});
  position_ = loader.Tensor("transformer.wpe.weight", {config_.max_positions, config_.hidden_size});
  for (int64_t i = 0; i < config_.num_layers; ++i) LoadBlock(loader, i);
  LoadTop(loader, "transformer.ln_f", gpt2_.norm_epsilon, word_, head);
  return loader.Finish(
      {"lm_head.", "score.", "multiple_choice_head.", "classifier.", "qa_outputs."},
      {".attn.bias", ".attn.masked_bias"});
}

Rows Gpt2Model::Embed(const Packed& batch, const RunContext& context) {
  if (BeginsWithPrompt(context)) return EmbedPrompted(batch, context);
  const Path path = PathOf(context, batch.token_ids);
  const EmbeddingInputs inputs{batch.token_ids,
                               Positions(batch.cu_seqlens, context, batch.token_ids.device()),
                               Tensor(), -1};
  CheckIds(inputs.ids, config_.vocab_size, "token id");
  CheckIds(inputs.positions, position_->tensor.size(0), "position");
  const DropoutSite site = Site(context, 0, kGpt2Embeddings, gpt2_.embedding_dropout);
  if (!batch.token_type_ids.defined()) {
    return {Embedding(path, inputs, word_->tensor, position_->tensor, site),
            batch.cu_seqlens,
            Tensor(),
            {}};
  }
  // Types are words like any other here.
  CheckIds(batch.token_type_ids, config_.vocab_size, "token type");
  const Tensor words = Embedding(path, inputs, word_->tensor, position_->tensor, DropoutSite());
  const Tensor types = Embedding(path, {batch.token_type_ids, Tensor(), Tensor(), -1},
                                 word_->tensor, Tensor(), DropoutSite());
  return {Dropout(path, words + types, site), batch.cu_seqlens, Tensor(), {}};
}

Rows Gpt2Model::EmbedPrompted(const Packed& batch, const RunContext& context) {
  const Path path = PathOf(context, batch.token_ids);
  const auto embedded = [&](const Tensor& ids, const Parameter* table, const char* what) {
    CheckIds(ids, table->tensor.size(0), what);
    return Embedding(path, {ids, Tensor(), Tensor(), -1}, table->tensor, Tensor(), DropoutSite());
  };
  Rows rows;
  rows.cu_seqlens = batch.cu_seqlens;
  rows.data = WithPrompt(embedded(batch.token_ids, word_, "token id"), &rows.cu_seqlens);
  rows.data = rows.data + embedded(Positions(rows.cu_seqlens, context, rows.data.device()),
                                   position_, "position");
  if (batch.token_type_ids.defined()) {
    std::vector<int32_t> bounds = batch.cu_seqlens;
    const Tensor types = BeforeEach(at::zeros({added_.virtual_tokens}, batch.token_ids.options()),
                                    batch.token_type_ids, &bounds);
    rows.data = rows.data + embedded(types, word_, "token type");
  }
  rows.data = Dropout(path, rows.data, Site(context, 0, kGpt2Embeddings, gpt2_.embedding_dropout));
  return rows;
}

Rows Gpt2Model::Block(int index, const Rows& rows, const RunContext& context) {
  const Gpt2Block& block = gpt2_blocks_[static_cast<size_t>(index)];
  const Path path = PathOf(context, rows.data);
  const int64_t d = config_.hidden_size, head_dim = d / gpt2_.num_heads;
  const bool last_rows = LeavesLastRows(index, context);
  const auto kept = [&](const Tensor& x) { return last_rows ? LastRows(x, rows.cu_seqlens) : x; };
  const auto heads = [&](const Tensor& x, int64_t part) {
    return x.narrow(1, part * d, d).unflatten(1, {gpt2_.num_heads, head_dim});
  };
  const Tensor qkv = Linear(
      path, Normalise(path, rows.data, LayerNormOf(block.attention_norm, gpt2_.norm_epsilon)),
      block.qkv.Both(context));
  AttentionParts parts{heads(kept(qkv), 0),
                       heads(qkv, 1),
                       heads(qkv, 2),
                       1,
                       Tensor(),
                       Site(context, index + 1, kGpt2Attention, gpt2_.attention_dropout)};
  if (gpt2_.scales_scores) parts.scale = 1 / std::sqrt(static_cast<double>(head_dim));
  if (gpt2_.scales_scores_by_block) parts.scale /= index + 1;
  const Tensor attended =
      Linear(path, Attend(parts, index, rows, context), block.attention_output.Unbiased(context));
  const auto [sum, normed] = ResidualAndNorm(
      path, AfterAttention(path, added_.Of(index), attended, block.attention_output.b()),
      block.attention_output.b(), kept(rows.data), LayerNormOf(block.mlp_norm, gpt2_.norm_epsilon),
      Site(context, index + 1, kGpt2AttentionOutput, gpt2_.residual_dropout));
  const Tensor mlp = Mlp(path, gpt2_.activation, normed, block.inner.Both(context),
                         block.outer.Both(context), DropoutSite());
  Rows out;
  out.data =
      Residual(path, AfterFeedForward(path, added_.Of(index), normed, mlp, block.outer.b()),
               block.outer.b(), sum, Site(context, index + 1, kGpt2Output, gpt2_.residual_dropout));
  out.cu_seqlens = last_rows ? UnitBounds(rows.cu_seqlens.size() - 1) : rows.cu_seqlens;
  return out;
}

absl::StatusOr<std::unique_ptr<Model>> LoadGpt2(ModelConfig config, const std::string& directory,
                                                const std::optional<HeadSpec>& head) {
  ConfigFields fields(config.source);
  const Gpt2Config gpt2 = ReadGpt2(fields, &config);
  auto model = std::make_unique<Gpt2Model>(std::move(config), gpt2);
  THAW_RETURN_IF_ERROR(model->Load(directory, head));
  return std::unique_ptr<Model>(std::move(model));
}

}  // namespace

const Family kGpt2Family = {
    "gpt2",
    "GPT2ForSequenceClassification",
    "GPT2LMHeadModel",
    [](ConfigFields& fields, ModelConfig* config) { ReadGpt2(fields, config); },
    LoadGpt2,
    kGpt2TokenTables};

}  // namespace thaw
