// LLaMA decoder (arXiv 2302.13971; pre-norm blocks with RMS norms, rotary positions, gated
// feed-forward and grouped keys and values) and its relatives Mistral, Qwen2 and Qwen3, with a
// language model's head or a classifier of the last token.
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/model/causal_decoder.h"
#include "worker/model/family.h"
#include "worker/model/model_loader.h"
#include "worker/model/ops.h"
#include "worker/model/packed_rows.h"
#include "worker/model/rotary.h"

namespace thaw {
namespace {

constexpr const char* kLlamaTokenTables[] = {"embed_tokens.weight", "lm_head.weight"};

using torch::Tensor;

// What sets one model_type apart: what transformers takes for fields that are missing, and parts.
struct LlamaVariant {
  const char* model_type;
  int64_t vocab_size, intermediate_size, max_positions;
  int64_t kv_heads = 0;  // 0: as many as heads
  int64_t head_dim = 0;  // 0: hidden_size / heads
  enum { kFullAttention, kAllLayers, kSomeLayers } windows = kFullAttention;
  bool always_biased = false;       // q, k and v, but not the output
  bool may_bias_attention = false;  // by attention_bias
  bool may_bias_mlp = false;        // by mlp_bias
  bool norms_heads = false;         // queries and keys, before they are rotated
};
constexpr LlamaVariant kLlamaVariants[] = {
    {.model_type = "llama",
     .vocab_size = 32000,
     .intermediate_size = 11008,
     .max_positions = 2048,
     .may_bias_attention = true,
     .may_bias_mlp = true},
    {.model_type = "mistral",
     .vocab_size = 32000,
     .intermediate_size = 14336,
     .max_positions = 131072,
     .kv_heads = 8,
     .windows = LlamaVariant::kAllLayers},
    {.model_type = "qwen2",
     .vocab_size = 151936,
     .intermediate_size = 22016,
     .max_positions = 32768,
     .kv_heads = 32,
     .windows = LlamaVariant::kSomeLayers,
     .always_biased = true},
    {.model_type = "qwen3",
     .vocab_size = 151936,
     .intermediate_size = 22016,
     .max_positions = 32768,
     .kv_heads = 32,
     .head_dim = 128,
     .windows = LlamaVariant::kSomeLayers,
     .may_bias_attention = true,
     .norms_heads = true},
};

struct LlamaConfig {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t intermediate_size = 0;
  int64_t padding_id = -1;  // whose embedding gets no gradient
  ActivationKind activation = ActivationKind::kSilu;
  double norm_epsilon = 1e-6;
  double attention_dropout = 0;
  bool qkv_bias = false, output_bias = false, mlp_bias = false, norms_heads = false;
  std::vector<int64_t> windows;  // by layer; 0: none
  RotaryConfig rotary;
};

const LlamaVariant& LlamaVariantOf(const std::string& model_type) {
  for (const LlamaVariant& variant : kLlamaVariants) {
    if (model_type == variant.model_type) return variant;
  }
  return kLlamaVariants[0];
}

// Windows of Qwen2 and Qwen3: by layer_types, or else in all layers from max_window_layers on.
std::vector<int64_t> ReadLayerWindows(ConfigFields& fields, int64_t layers) {
  const bool uses = fields.Flag("use_sliding_window", false);
  const int64_t given = fields.Size("sliding_window", 1, fields.Has("sliding_window") ? 0 : 4096);
  const int64_t first = fields.Size("max_window_layers", 0, 28);
  const int64_t window = uses ? given : 0;
  std::vector<int64_t> windows(static_cast<size_t>(layers), 0);
  const nlohmann::json* types = fields.Find("layer_types");
  if (types == nullptr) {
    for (int64_t i = first; i < layers; ++i) windows[static_cast<size_t>(i)] = window;
    return windows;
  }
  if (!types->is_array() || types->size() != windows.size()) {
    fields.Fail("layer_types", absl::StrCat("expected one name for each of ", layers,
                                            " layers, found ", ShownJson(*types)));
    return windows;
  }
  for (size_t i = 0; i < windows.size(); ++i) {
    const nlohmann::json& type = (*types)[i];
    if (type == "full_attention") continue;
    if (type != "sliding_attention") {
      fields.Fail("layer_types", absl::StrCat(ShownJson(type),
                                              " is not supported, only \"full_attention\" and "
                                              "\"sliding_attention\""));
    } else if (window == 0) {
      fields.Fail("layer_types",
                  "\"sliding_attention\" needs use_sliding_window and sliding_window");
    }
    windows[i] = window;
  }
  return windows;
}

LlamaConfig ReadLlama(ConfigFields& fields, ModelConfig* config) {
  const LlamaVariant& variant = LlamaVariantOf(config->model_type);
  LlamaConfig llama;
  config->causal = true;
  config->vocab_size = fields.Size("vocab_size", 1, variant.vocab_size);
  config->hidden_size = fields.Size("hidden_size", 1, 4096);
  config->num_layers = fields.Size("num_hidden_layers", 1, 32);
  llama.heads = fields.Size("num_attention_heads", 1, 32);
  const bool as_heads = variant.kv_heads == 0 || fields.Has("num_key_value_heads");
  llama.kv_heads = fields.Size("num_key_value_heads", 1, as_heads ? llama.heads : variant.kv_heads);
  const int64_t even_share = std::max<int64_t>(1, config->hidden_size / llama.heads);
  llama.head_dim = fields.Size("head_dim", 1, variant.head_dim > 0 ? variant.head_dim : even_share);
  llama.intermediate_size = fields.Size("intermediate_size", 1, variant.intermediate_size);
  llama.activation = fields.Activation("hidden_act", "silu");
  llama.norm_epsilon = fields.Real("rms_norm_eps", 0, 1, 1e-6);
  llama.attention_dropout = fields.Real("attention_dropout", 0, 1, 0);
  llama.qkv_bias = variant.always_biased;
  if (variant.may_bias_attention) {
    llama.qkv_bias = llama.output_bias = fields.Flag("attention_bias", false);
  }
  if (variant.may_bias_mlp) llama.mlp_bias = fields.Flag("mlp_bias", false);
  llama.norms_heads = variant.norms_heads;
  config->ties_output = fields.Flag("tie_word_embeddings", false);
  if (fields.Find("pad_token_id") != nullptr) {
    // Counted from the end, as torch's padding_idx: old files have -1.
    const int64_t id = fields.Size("pad_token_id", -1);
    llama.padding_id = id < 0 ? config->vocab_size - 1 : id < config->vocab_size ? id : -1;
  }
  const int64_t positions = fields.Size("max_position_embeddings", 1, variant.max_positions);
  llama.rotary = ReadRotary(fields, positions);
  config->max_positions =
      llama.rotary.kind == RotaryKind::kDynamic ? kUnboundedPositions : positions;
  switch (variant.windows) {
    case LlamaVariant::kFullAttention:
      break;
    case LlamaVariant::kAllLayers:
      llama.windows.assign(
          static_cast<size_t>(config->num_layers),
          fields.Size("sliding_window", 1, fields.Has("sliding_window") ? 0 : 4096));
      break;
    case LlamaVariant::kSomeLayers:
      llama.windows = ReadLayerWindows(fields, config->num_layers);
      break;
  }
  llama.windows.resize(static_cast<size_t>(config->num_layers), 0);
  // How the weights came about and how they were split over devices.
  fields.Ignore({"pretraining_tp", "is_llama_config", "unsloth_fixed"});
  fields.Divides("num_key_value_heads", llama.kv_heads, "num_attention_heads", llama.heads);
  if (fields.Find("head_dim") == nullptr && variant.head_dim == 0) {
    fields.Divides("num_attention_heads", llama.heads, "hidden_size", config->hidden_size);
  }
  if (llama.head_dim % 2 != 0) {
    fields.Fail("head_dim",
                absl::StrCat("expected an even number to rotate, found ", llama.head_dim));
  }
  return llama;
}

struct LlamaBlock {
  WeightPair attention_norm, query, key, value, query_norm, key_norm, output, mlp_norm, gate, up,
      down;
};

class LlamaModel : public CausalDecoder {
 public:
  LlamaModel(ModelConfig config, const LlamaConfig& llama)
      : CausalDecoder(std::move(config)), llama_(llama), rotary_(llama.rotary, llama.head_dim) {}

  absl::Status Load(const std::string& directory, const std::optional<HeadSpec>& head);

  Rows Embed(const Packed& batch, const RunContext& context) override;
  KeyShape PrefixShape() const override { return {llama_.kv_heads, llama_.head_dim}; }
  Rows Block(int block, const Rows& rows, const RunContext& context) override;

 private:
  void LoadBlock(ModelLoader& loader, int64_t index);
  Norm NormOf(const WeightPair& weights) const {
    return {NormKind::kRms, weights.w(), Tensor(), llama_.norm_epsilon, rows_type()};
  }
  // Attention over the normed rows, before its output layer.
  Tensor Attended(int index, const Tensor& normed, const Rows& rows, const RunContext& context);

  const LlamaConfig llama_;
  Rotary rotary_;
  const Parameter* word_ = nullptr;
  std::vector<LlamaBlock> llama_blocks_;
};

void LlamaModel::LoadBlock(ModelLoader& loader, int64_t index) {
  const int64_t d = config_.hidden_size, wide = llama_.intermediate_size;
  const int64_t q = llama_.heads * llama_.head_dim, kv = llama_.kv_heads * llama_.head_dim;
  const std::string scope = absl::StrCat("model.layers.", index, ".");
  loader.StartGroup(absl::StrCat("block.", index));
  LlamaBlock block;
  block.attention_norm = loader.Norm(scope + "input_layernorm", d, false);
  loader.StartKind(ParameterKind::kAttention);
  block.query = loader.Linear(scope + "self_attn.q_proj", q, d, llama_.qkv_bias);
  block.key = loader.Linear(scope + "self_attn.k_proj", kv, d, llama_.qkv_bias);
  block.value = loader.Linear(scope + "self_attn.v_proj", kv, d, llama_.qkv_bias);
  if (llama_.norms_heads) {
    block.query_norm = loader.Norm(scope + "self_attn.q_norm", llama_.head_dim, false);
    block.key_norm = loader.Norm(scope + "self_attn.k_norm", llama_.head_dim, false);
  }
  block.output = loader.Linear(scope + "self_attn.o_proj", d, q, llama_.output_bias);
  block.mlp_norm = loader.Norm(scope + "post_attention_layernorm", d, false);
  loader.StartKind(ParameterKind::kFeedForward);
  block.gate = loader.Linear(scope + "mlp.gate_proj", wide, d, llama_.mlp_bias);
  block.up = loader.Linear(scope + "mlp.up_proj", wide, d, llama_.mlp_bias);
  block.down = loader.Linear(scope + "mlp.down_proj", d, wide, llama_.mlp_bias);
  llama_blocks_.push_back(block);
}

absl::Status LlamaModel::Load(const std::string& directory, const std::optional<HeadSpec>& head) {
  THAW_ASSIGN_OR_RETURN(Weights weights,
                        Weights::Open(directory, "model.", {"embed_tokens.", "layers.", "norm."}));
  ModelLoader loader(&weights, this);
  const int64_t d = config_.hidden_size;
  loader.StartGroup("embeddings");
  loader.StartKind(ParameterKind::kEmbedding);
  word_ = loader.Tensor("model.embed_tokens.weight", {config_.vocab_size, d});
  for (int64_t i = 0; i < config_.num_layers; ++i) LoadBlock(loader, i);
  LoadTop(loader, "model.norm", llama_.norm_epsilon, word_, head, NormKind::kRms);
  return loader.Finish({"lm_head.", "score.", "qa_outputs."}, {"rotary_emb.inv_freq"});
}

Rows LlamaModel::Embed(const Packed& batch, const RunContext& context) {
  CheckIds(batch.token_ids, config_.vocab_size, "token id");
  const EmbeddingInputs inputs{batch.token_ids, Tensor(), Tensor(), llama_.padding_id};
  Rows rows = {
      Embedding(PathOf(context, batch.token_ids), inputs, word_->tensor, Tensor(), DropoutSite()),
      batch.cu_seqlens,
      Tensor(),
      {}};
  if (BeginsWithPrompt(context)) rows.data = WithPrompt(rows.data, &rows.cu_seqlens);
  return rows;
}

Tensor LlamaModel::Attended(int index, const Tensor& normed, const Rows& rows,
                            const RunContext& context) {
  const LlamaBlock& block = llama_blocks_[static_cast<size_t>(index)];
  const Path path = PathOf(context, normed);
  const bool last_rows = LeavesLastRows(index, context);
  const auto heads = [&](const Tensor& x) { return x.unflatten(1, {-1, llama_.head_dim}); };
  std::vector<Tensor> qkv;
  if (last_rows) {
    qkv = {Linear(path, LastRows(normed, rows.cu_seqlens), block.query.Both(context))};
    const auto kv = Projections(path, normed, {block.key.Both(context), block.value.Both(context)});
    qkv.insert(qkv.end(), kv.begin(), kv.end());
  } else {
    qkv = Projections(
        path, normed,
        {block.query.Both(context), block.key.Both(context), block.value.Both(context)});
  }
  if (llama_.norms_heads) {
    qkv[0] = NormaliseHeads(path, qkv[0], NormOf(block.query_norm));
    qkv[1] = NormaliseHeads(path, qkv[1], NormOf(block.key_norm));
  }
  const Rotary::Angles angles = rotary_.At(Positions(rows.cu_seqlens, context, torch::kCPU),
                                           rows.cu_seqlens, normed.device());
  const Tensor q_positions =
      last_rows ? LastRows(angles.positions.unsqueeze(1), rows.cu_seqlens).squeeze(1)
                : angles.positions;
  return Attend({Rotate(path, heads(qkv[0]), q_positions, angles.cosines, angles.sines),
                 Rotate(path, heads(qkv[1]), angles.positions, angles.cosines, angles.sines),
                 heads(qkv[2]), 1 / std::sqrt(static_cast<double>(llama_.head_dim)), Tensor(),
                 Site(context, index + 1, 0, llama_.attention_dropout),
                 llama_.windows[static_cast<size_t>(index)]},
                index, rows, context);
}

Rows LlamaModel::Block(int index, const Rows& rows, const RunContext& context) {
  const LlamaBlock& block = llama_blocks_[static_cast<size_t>(index)];
  const Path path = PathOf(context, rows.data);
  const bool last_rows = LeavesLastRows(index, context);
  const Tensor normed = Normalise(path, rows.data, NormOf(block.attention_norm));
  const Tensor attended =
      Linear(path, Attended(index, normed, rows, context), block.output.Unbiased(context));
  const auto [sum, middle] = ResidualAndNorm(
      path, AfterAttention(path, added_.Of(index), attended, block.output.b()), block.output.b(),
      last_rows ? LastRows(rows.data, rows.cu_seqlens) : rows.data, NormOf(block.mlp_norm),
      DropoutSite());
  const Tensor mlp = GatedMlp(path, llama_.activation, middle, block.gate.Both(context),
                              block.up.Both(context), block.down.Both(context), DropoutSite());
  Rows out;
  out.data = Residual(path, AfterFeedForward(path, added_.Of(index), middle, mlp, block.down.b()),
                      block.down.b(), sum, DropoutSite());
  out.cu_seqlens = last_rows ? UnitBounds(rows.cu_seqlens.size() - 1) : rows.cu_seqlens;
  return out;
}

absl::StatusOr<std::unique_ptr<Model>> LoadLlama(ModelConfig config, const std::string& directory,
                                                 const std::optional<HeadSpec>& head) {
  ConfigFields fields(config.source);
  const LlamaConfig llama = ReadLlama(fields, &config);
  auto model = std::make_unique<LlamaModel>(std::move(config), llama);
  THAW_RETURN_IF_ERROR(model->Load(directory, head));
  return std::unique_ptr<Model>(std::move(model));
}

void CheckLlama(ConfigFields& fields, ModelConfig* config) { ReadLlama(fields, config); }

}  // namespace

const Family kLlamaFamily = {
    "llama",          "LlamaForSequenceClassification", "LlamaForCausalLM", CheckLlama, LoadLlama,
    kLlamaTokenTables};
const Family kMistralFamily = {"mistral",
                               "MistralForSequenceClassification",
                               "MistralForCausalLM",
                               CheckLlama,
                               LoadLlama,
                               kLlamaTokenTables};
const Family kQwen2Family = {
    "qwen2",          "Qwen2ForSequenceClassification", "Qwen2ForCausalLM", CheckLlama, LoadLlama,
    kLlamaTokenTables};
const Family kQwen3Family = {
    "qwen3",          "Qwen3ForSequenceClassification", "Qwen3ForCausalLM", CheckLlama, LoadLlama,
    kLlamaTokenTables};

}  // namespace thaw
