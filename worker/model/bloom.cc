// BLOOM (arXiv 2211.05100): pre-norm blocks, positions by ALiBi alone, a norm behind the
// embeddings, queries, keys and values of one head side by side.
#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/model/alibi.h"
#include "worker/model/causal_decoder.h"
#include "worker/model/family.h"
#include "worker/model/ops.h"
#include "worker/model/packed_rows.h"

namespace thaw {
namespace {

constexpr const char* kBloomTokenTables[] = {"word_embeddings.weight", "lm_head.weight"};

using torch::Tensor;

struct BloomConfig {
  int64_t num_heads = 0;  // divides hidden_size
  double norm_epsilon = 1e-5;
  bool residual_is_normed = false;  // what the blocks add to is behind their norms
  double hidden_dropout = 0;
  double attention_dropout = 0;
};

BloomConfig ReadBloom(ConfigFields& fields, ModelConfig* config) {
  BloomConfig bloom;
  const char* const width = fields.Spelling("hidden_size", "n_embed");
  const char* const heads = fields.Spelling("n_head", "num_attention_heads");
  config->causal = true;
  config->vocab_size = fields.Size("vocab_size", 1, 250880);
  config->hidden_size = fields.Size(width, 1, 64);
  config->num_layers = fields.Size(fields.Spelling("n_layer", "num_hidden_layers"), 1, 2);
  bloom.num_heads = fields.Size(heads, 1, 8);
  bloom.norm_epsilon = fields.Real("layer_norm_epsilon", 0, 1, 1e-5);
  bloom.residual_is_normed = fields.Flag("apply_residual_connection_post_layernorm", false);
  bloom.hidden_dropout = fields.Real("hidden_dropout", 0, 1, 0);
  bloom.attention_dropout = fields.Real("attention_dropout", 0, 1, 0);
  fields.Only("n_inner", 4 * config->hidden_size);
  fields.Only("add_cross_attention", false);
  fields.Only("is_encoder_decoder", false);
  // By itself the number only tells how the model was trained. With slow_but_exact, transformers
  // adds up as many slices of the output projections, and leaves their biases out.
  const int64_t slices = fields.Size("pretraining_tp", 1, 1);
  if (fields.Flag("slow_but_exact", false) && slices > 1) {
    fields.Fail("slow_but_exact", absl::StrCat("true is not supported where pretraining_tp is ",
                                               slices, ", only false"));
  }
  // How Megatron trained it, in half precision; nothing that transformers computes by.
  fields.Ignore({"attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion",
                 "offset_alibi", "seq_length", "skip_bias_add", "skip_bias_add_qkv",
                 "unk_token_id"});
  fields.Divides(heads, bloom.num_heads, width, config->hidden_size);
  return bloom;
}

struct BloomBlock {
  WeightPair attention_norm, qkv, attention_output, mlp_norm, inner, outer;
};

// Where dropout acts within a group.
enum BloomPlace : uint32_t { kBloomAttention, kBloomAttentionOutput, kBloomOutput };

class BloomModel : public CausalDecoder {
 public:
  BloomModel(ModelConfig config, BloomConfig bloom)
      : CausalDecoder(std::move(config)), bloom_(bloom) {}

  absl::Status Load(const std::string& directory, const std::optional<HeadSpec>& head);

  Rows Embed(const Packed& batch, const RunContext& context) override;
  KeyShape PrefixShape() const override {
    return {bloom_.num_heads, config_.hidden_size / bloom_.num_heads};
  }
  Rows Block(int block, const Rows& rows, const RunContext& context) override;

 private:
  void LoadBlock(ModelLoader& loader, int64_t index);
  // Serves sequences of so many keys.
  const Tensor& Alibi(int64_t keys, torch::Device device);

  const BloomConfig bloom_;
  const Parameter* word_ = nullptr;
  WeightPair embeddings_norm_;
  std::vector<BloomBlock> bloom_blocks_;
  Tensor alibi_;  // grows with the longest sequence
};

void BloomModel::LoadBlock(ModelLoader& loader, int64_t index) {
  const int64_t d = config_.hidden_size;
  const std::string scope = absl::StrCat("transformer.h.", index, ".");
  loader.StartGroup(absl::StrCat("block.", index));
  BloomBlock block;
  block.attention_norm = loader.Norm(scope + "input_layernorm", d);
  loader.StartKind(ParameterKind::kAttention);
  block.qkv = loader.Linear(scope + "self_attention.query_key_value", 3 * d, d);
  block.attention_output = loader.Linear(scope + "self_attention.dense", d, d);
  block.mlp_norm = loader.Norm(scope + "post_attention_layernorm", d);
  loader.StartKind(ParameterKind::kFeedForward);
  block.inner = loader.Linear(scope + "mlp.dense_h_to_4h", 4 * d, d);
  block.outer = loader.Linear(scope + "mlp.dense_4h_to_h", d, 4 * d);
  bloom_blocks_.push_back(block);
}

absl::Status BloomModel::Load(const std::string& directory, const std::optional<HeadSpec>& head) {
  THAW_ASSIGN_OR_RETURN(
      Weights weights,
      Weights::Open(directory, "transformer.",
                    {"word_embeddings.", "word_embeddings_layernorm.", "h.", "ln_f."}));
  ModelLoader loader(&weights, this);
  loader.StartGroup("embeddings");
  loader.StartKind(ParameterKind::kEmbedding);
  word_ = loader.Tensor("transformer.word_embeddings.weight",
                        {config_.vocab_size, config_.hidden_size});
  embeddings_norm_ = loader.Norm("transformer.word_embeddings_layernorm", config_.hidden_size);
  for (int64_t i = 0; i < config_.num_layers; ++i) LoadBlock(loader, i);
  LoadTop(loader, "transformer.ln_f", bloom_.norm_epsilon, word_, head);
  return loader.Finish({"lm_head.", "score.", "classifier.", "qa_outputs."}, {});
}

const Tensor& BloomModel::Alibi(int64_t keys, torch::Device device) {
  if (!alibi_.defined() || alibi_.size(1) < 2 * keys - 1 || alibi_.device() != device) {
    constexpr int64_t kLeastSpan = 256;
    const auto span = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(keys)));
    alibi_ = AlibiBias(bloom_.num_heads, std::max(kLeastSpan, span)).to(device);
  }
  return alibi_;
}

Rows BloomModel::Embed(const Packed& batch, const RunContext& context) {
  CheckIds(batch.token_ids, config_.vocab_size, "token id");
  if (BeginsWithPrompt(context)) {
    const Path path = PathOf(context, batch.token_ids);
    Rows rows;
    rows.cu_seqlens = batch.cu_seqlens;
    const Tensor words = Embedding(path, {batch.token_ids, Tensor(), Tensor(), -1}, word_->tensor,
                                   Tensor(), DropoutSite());
    Norm norm = LayerNormOf(embeddings_norm_, bloom_.norm_epsilon);
    norm.type = torch::kFloat;  // the rows that blocks add to
    rows.data = Normalise(path, WithPrompt(words, &rows.cu_seqlens), norm);
    return rows;
  }
  const Tensor rows =
      EmbeddingNorm(PathOf(context, batch.token_ids), {batch.token_ids, Tensor(), Tensor(), -1},
                    word_->tensor, Tensor(), Tensor(), embeddings_norm_.w(), embeddings_norm_.b(),
                    bloom_.norm_epsilon, DropoutSite());
  return {rows, batch.cu_seqlens, Tensor(), {}};
}

Rows BloomModel::Block(int index, const Rows& rows, const RunContext& context) {
  const BloomBlock& block = bloom_blocks_[static_cast<size_t>(index)];
  const Path path = PathOf(context, rows.data);
  const int64_t head_dim = config_.hidden_size / bloom_.num_heads;
  const bool last_rows = LeavesLastRows(index, context);
  const auto kept = [&](const Tensor& x) { return last_rows ? LastRows(x, rows.cu_seqlens) : x; };
  const auto heads = [&](const Tensor& x, int64_t part) {
    return x.unflatten(1, {bloom_.num_heads, 3, head_dim}).select(2, part);
  };
  const Tensor in =
      Normalise(path, rows.data, LayerNormOf(block.attention_norm, bloom_.norm_epsilon));
  const Tensor qkv = Linear(path, in, block.qkv.Both(context));
  const AttentionParts parts{heads(kept(qkv), 0),
                             heads(qkv, 1),
                             heads(qkv, 2),
                             1 / std::sqrt(static_cast<double>(head_dim)),
                             Alibi(LongestKeys(rows, context), rows.data.device()),
                             Site(context, index + 1, kBloomAttention, bloom_.attention_dropout)};
  const Tensor attended =
      Linear(path, Attend(parts, index, rows, context), block.attention_output.Unbiased(context));
  const auto [sum, normed] = ResidualAndNorm(
      path, AfterAttention(path, added_.Of(index), attended, block.attention_output.b()),
      block.attention_output.b(),
      kept(bloom_.residual_is_normed ? in.to(torch::kFloat) : rows.data),
      LayerNormOf(block.mlp_norm, bloom_.norm_epsilon),
      Site(context, index + 1, kBloomAttentionOutput, bloom_.hidden_dropout));
  // transformers' own gelu has √(2/π) as 0.79788456: the same number in fp32.
  const Tensor mlp = Mlp(path, ActivationKind::kGeluTanh, normed, block.inner.Both(context),
                         block.outer.Both(context), DropoutSite());
  Rows out;
  out.data = Residual(path, AfterFeedForward(path, added_.Of(index), normed, mlp, block.outer.b()),
                      block.outer.b(), bloom_.residual_is_normed ? normed.to(torch::kFloat) : sum,
                      Site(context, index + 1, kBloomOutput, bloom_.hidden_dropout));
  out.cu_seqlens = last_rows ? UnitBounds(rows.cu_seqlens.size() - 1) : rows.cu_seqlens;
  return out;
}

absl::StatusOr<std::unique_ptr<Model>> LoadBloom(ModelConfig config, const std::string& directory,
                                                 const std::optional<HeadSpec>& head) {
  ConfigFields fields(config.source);
  const BloomConfig bloom = ReadBloom(fields, &config);
  auto model = std::make_unique<BloomModel>(std::move(config), bloom);
  THAW_RETURN_IF_ERROR(model->Load(directory, head));
  return std::unique_ptr<Model>(std::move(model));
}

}  // namespace

const Family kBloomFamily = {
    "bloom",
    "BloomForSequenceClassification",
    "BloomForCausalLM",
    [](ConfigFields& fields, ModelConfig* config) { ReadBloom(fields, config); },
    LoadBloom,
    kBloomTokenTables};

}  // namespace thaw
