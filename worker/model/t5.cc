// T5 (arXiv 1910.10683; pre-norm blocks with RMS norms, relative position buckets and no biases),
// versions 1.0 and 1.1: encoder and decoder with a language model's head, or the encoder alone.
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "worker/model/family.h"
#include "worker/model/model_loader.h"
#include "worker/model/ops.h"
#include "worker/model/packed_rows.h"

namespace thaw {
namespace {

constexpr const char* kT5TokenTables[] = {"shared.weight", "embed_tokens.weight", "lm_head.weight"};

using torch::Tensor;

struct T5Config {
  int64_t heads = 0, head_dim = 0;  // their product need not be hidden_size
  int64_t feed_forward_size = 0;
  int64_t decoder_layers = 0;
  int64_t buckets = 32, max_distance = 128;
  ActivationKind activation = ActivationKind::kRelu;
  bool gated = false;
  bool scales_output = true;  // decoder's output times d_model^-0.5: version 1.0
  double norm_epsilon = 1e-6;
  double dropout = 0.1;
};

// "relu", "gated-gelu", …: transformers spells out what that means in fields of their own.
void ReadFeedForward(ConfigFields& fields, T5Config* t5) {
  const std::string projection = fields.Text("feed_forward_proj", "relu");
  absl::string_view name = projection;
  t5->gated = absl::ConsumePrefix(&name, "gated-");
  const std::string spelled = projection == "gated-gelu" ? "gelu_new" : std::string(name);
  const nlohmann::json source = {{"feed_forward_proj", spelled}};
  ConfigFields inner(source);
  t5->activation = inner.Activation("feed_forward_proj", "relu");
  fields.Adopt(inner);
  fields.Only("dense_act_fn", spelled);
  fields.Only("is_gated_act", t5->gated);
}

T5Config ReadT5(ConfigFields& fields, ModelConfig* config) {
  T5Config t5;
  config->vocab_size = fields.Size("vocab_size", 1, 32128);
  config->hidden_size = fields.Size(fields.Spelling("d_model", "hidden_size"), 1, 512);
  config->num_layers = fields.Size(fields.Spelling("num_layers", "num_hidden_layers"), 1, 6);
  // The bias of relative positions takes heads times twice a text's length: a small file must not
  // ask for memory without bound. The largest T5 has 128 heads of 128.
  constexpr int64_t kMostHeads = 256, kWidestHead = 1024, kMostBuckets = 1024;
  t5.heads = fields.Size(fields.Spelling("num_heads", "num_attention_heads"), 1, 8, kMostHeads);
  t5.head_dim = fields.Size(fields.Spelling("d_kv", "head_dim"), 1, 64, kWidestHead);
  t5.feed_forward_size = fields.Size("d_ff", 1, 2048);
  t5.decoder_layers = fields.Size("num_decoder_layers", 1, config->num_layers);
  // A quarter of them counts whole distances in the encoder.
  t5.buckets = fields.Size("relative_attention_num_buckets", 4, 32, kMostBuckets);
  t5.max_distance = fields.Size("relative_attention_max_distance", 1, 128);
  if (t5.max_distance <= t5.buckets / 2) {
    fields.Fail("relative_attention_max_distance",
                absl::StrCat("expected more than half of relative_attention_num_buckets ",
                             t5.buckets, ", found ", t5.max_distance));
  }
  ReadFeedForward(fields, &t5);
  t5.norm_epsilon = fields.Real("layer_norm_epsilon", 0, 1, 1e-6);
  t5.dropout = fields.Real("dropout_rate", 0, 1, 0.1);
  // Version 1.1 scales nothing, which older files tell by not tying (whatever their tensors do).
  t5.scales_output = fields.Flag("scale_decoder_outputs", config->ties_output);
  fields.Only("is_decoder", false);
  // Lengths that old files name though nothing has them, and the dropout of a classifier.
  fields.Ignore({"n_positions", "classifier_dropout"});
  const nlohmann::json* names = fields.Find("architectures");
  const bool named = names != nullptr && names->is_array() && names->size() == 1;
  config->encoder_decoder = !named || names->front() != "T5EncoderModel";
  if (config->encoder_decoder) fields.Only("is_encoder_decoder", true);
  if (config->head == HeadKind::kClassifier) {
    fields.Fail("architectures", absl::StrCat(ShownJson(*names),
                                              " is not supported, only "
                                              "T5ForConditionalGeneration, T5Model and "
                                              "T5EncoderModel"));
  }
  return t5;
}

// int64 [2 * span - 1]: the bucket of each distance key - query from 1 - span to span - 1, as
// transformers computes them: with a logarithm in fp32.
Tensor Buckets(int64_t span, bool both_ways, int64_t buckets, int64_t max_distance) {
  Tensor distance = at::arange(1 - span, span, torch::TensorOptions(torch::kInt64));
  Tensor offset = at::zeros_like(distance);
  if (both_ways) {
    buckets /= 2;
    offset = at::gt(distance, 0).to(torch::kInt64) * buckets;
    distance = distance.abs();
  } else {
    distance = -distance.clamp_max(0);
  }
  const int64_t exact = buckets / 2;
  const double widest = std::log(static_cast<double>(max_distance) / static_cast<double>(exact));
  const Tensor far =
      (exact + (at::log(distance.to(torch::kFloat32) / exact) / widest * (buckets - exact))
                   .to(torch::kInt64))
          .clamp_max(buckets - 1);
  return offset + at::where(distance < exact, distance, far);
}

// Where dropout acts within a group.
enum T5Place : uint32_t {
  kT5Attention,
  kT5AttentionOutput,
  kT5Cross,
  kT5CrossOutput,
  kT5Inner,
  kT5Output,
  kT5Final,
};
enum T5EmbeddingsPlace : uint32_t { kT5Source, kT5Target };

struct T5Attention {
  WeightPair norm, query, key, value, output;
};

struct T5Block {
  T5Attention self, cross;  // cross: the decoder's
  WeightPair norm, gate, up, down;
};

class T5Model : public Model {
 public:
  T5Model(ModelConfig config, const T5Config& t5) : Model(std::move(config)), t5_(t5) {}

  absl::Status Load(const std::string& directory, const std::optional<HeadSpec>& head);

  Rows Embed(const Packed& batch, const RunContext& context) override;
  Rows Block(int block, const Rows& rows, const RunContext& context) override;
  Tensor Hidden(const Rows& rows, const RunContext& context) override;
  Tensor Head(const Rows&, const RunContext&) override {
    TORCH_CHECK(false, "t5 has no classifier");
  }
  Tensor OutputStates(const Rows& rows, const Tensor& selected, const RunContext& context) override;
  OutputLayer output_layer() const override { return {output_->tensor, Tensor(), output_->half}; }
  // The decoder's: transformers' encoder alone takes none.
  KeyShape PrefixShape() const override {
    return config_.encoder_decoder ? KeyShape{t5_.heads, t5_.head_dim} : KeyShape{};
  }

 private:
  T5Attention LoadAttention(ModelLoader& loader, const std::string& scope, const std::string& name);
  void LoadStack(ModelLoader& loader, const std::string& stack, int64_t layers);

  bool decodes(int block) const {
    return first_decoder_block_ > 0 && block >= first_decoder_block_;
  }
  Norm NormOf(const WeightPair& weights) const {
    return {NormKind::kRms, weights.w(), Tensor(), t5_.norm_epsilon, rows_type()};
  }
  // `prompted`: bounds of the ids, before each of which a prompt may go, as WithPrompt has it.
  Tensor EmbedIds(const Tensor& ids, T5EmbeddingsPlace place, const RunContext& context,
                  std::vector<int32_t>* prompted = nullptr);
  Tensor AttendToOwn(int index, const Tensor& normed, const std::vector<int32_t>& bounds,
                     const RunContext& context);
  Tensor CrossAttention(int index, const Tensor& normed, const Rows& rows,
                        const RunContext& context);

  const T5Config t5_;
  const Parameter *shared_ = nullptr, *output_ = nullptr;
  const Parameter *encoder_bias_ = nullptr, *decoder_bias_ = nullptr;  // [buckets, heads]
  WeightPair encoder_norm_, decoder_norm_;
  std::vector<T5Block> t5_blocks_;
};

T5Attention T5Model::LoadAttention(ModelLoader& loader, const std::string& scope,
                                   const std::string& name) {
  const int64_t d = config_.hidden_size, inner = t5_.heads * t5_.head_dim;
  T5Attention attention;
  attention.norm = loader.Norm(scope + "layer_norm", d, false);
  attention.query = loader.Linear(scope + name + ".q", inner, d, false);
  attention.key = loader.Linear(scope + name + ".k", inner, d, false);
  attention.value = loader.Linear(scope + name + ".v", inner, d, false);
  attention.output = loader.Linear(scope + name + ".o", d, inner, false);
  return attention;
}

void T5Model::LoadStack(ModelLoader& loader, const std::string& stack, int64_t layers) {
  const int64_t d = config_.hidden_size, wide = t5_.feed_forward_size;
  const bool decoder = stack == "decoder";
  for (int64_t i = 0; i < layers; ++i) {
    loader.StartGroup(absl::StrCat("block.", t5_blocks_.size()));
    const std::string layer = absl::StrCat(stack, ".block.", i, ".layer.");
    T5Block block;
    loader.StartKind(ParameterKind::kAttention);
    block.self = LoadAttention(loader, layer + "0.", "SelfAttention");
    if (i == 0) {
      // The other blocks of the stack read it too.
      (decoder ? decoder_bias_ : encoder_bias_) = loader.WithoutDecay(loader.Tensor(
          layer + "0.SelfAttention.relative_attention_bias.weight", {t5_.buckets, t5_.heads}));
    }
    if (decoder) block.cross = LoadAttention(loader, layer + "1.", "EncDecAttention");
    const std::string last = layer + (decoder ? "2." : "1.");
    block.norm = loader.Norm(last + "layer_norm", d, false);
    const std::string dense = last + "DenseReluDense.";
    loader.StartKind(ParameterKind::kFeedForward);
    if (t5_.gated) {
      block.gate = loader.Linear(dense + "wi_0", wide, d, false);
      block.up = loader.Linear(dense + "wi_1", wide, d, false);
    } else {
      block.up = loader.Linear(dense + "wi", wide, d, false);
    }
    block.down = loader.Linear(dense + "wo", d, wide, false);
    t5_blocks_.push_back(block);
  }
}

absl::Status T5Model::Load(const std::string& directory, const std::optional<HeadSpec>& head) {
  THAW_ASSIGN_OR_RETURN(Weights weights, Weights::Open(directory, "", {}));
  const bool has_decoder = config_.encoder_decoder;
  ChooseHead(head);
  config_.encoder_decoder = config_.head == HeadKind::kLanguageModel;
  if (config_.encoder_decoder && !has_decoder) {
    return absl::InvalidArgumentError(absl::StrCat(
        directory, ": T5EncoderModel has no decoder: give a T5ForConditionalGeneration"));
  }
  ModelLoader loader(&weights, this);
  loader.StartGroup("embeddings");
  loader.StartKind(ParameterKind::kEmbedding);
  shared_ = loader.Tensor("shared.weight", {config_.vocab_size, config_.hidden_size});
  LoadStack(loader, "encoder", config_.num_layers);
  // Of the last encoder block's group: it stands between that block and the decoder, whose blocks
  // all read what it gives.
  if (config_.encoder_decoder) {
    encoder_norm_ = loader.Norm("encoder.final_layer_norm", config_.hidden_size, false);
    first_decoder_block_ = static_cast<int>(t5_blocks_.size());
    LoadStack(loader, "decoder", t5_.decoder_layers);
  }
  loader.StartGroup("head");
  if (config_.encoder_decoder) {
    decoder_norm_ = loader.Norm("decoder.final_layer_norm", config_.hidden_size, false);
    output_ = loader.OutputLayer("lm_head.weight", shared_);
  } else {
    encoder_norm_ = loader.Norm("encoder.final_layer_norm", config_.hidden_size, false);
  }
  loader.Copy("encoder.embed_tokens.weight", shared_);
  if (config_.encoder_decoder) loader.Copy("decoder.embed_tokens.weight", shared_);
  // The first checkpoints have a bias of the first cross-attention that was never read.
  return loader.Finish(config_.encoder_decoder ? std::vector<std::string>{}
                                               : std::vector<std::string>{"decoder.", "lm_head."},
                       {"EncDecAttention.relative_attention_bias.weight"});
}

Tensor T5Model::EmbedIds(const Tensor& ids, T5EmbeddingsPlace place, const RunContext& context,
                         std::vector<int32_t>* prompted) {
  CheckIds(ids, config_.vocab_size, "token id");
  const Path path = PathOf(context, ids);
  const DropoutSite site = Site(context, 0, place, t5_.dropout);
  const EmbeddingInputs inputs{ids, Tensor(), Tensor()};
  if (prompted == nullptr || !BeginsWithPrompt(context)) {
    return Embedding(path, inputs, shared_->tensor, Tensor(), site);
  }
  const Tensor words = Embedding(path, inputs, shared_->tensor, Tensor(), DropoutSite());
  return Dropout(path, WithPrompt(words, prompted), site);
}

Rows T5Model::Embed(const Packed& batch, const RunContext& context) {
  Rows rows;
  if (batch.token_ids.defined()) {
    rows.cu_seqlens = batch.cu_seqlens;
    rows.data = EmbedIds(batch.token_ids, kT5Source, context, &rows.cu_seqlens);
    if (!config_.encoder_decoder) return rows;
    rows.other = EmbedIds(batch.target_ids, kT5Target, context);
    rows.other_bounds = batch.target_bounds;
  } else {
    rows.data = EmbedIds(batch.target_ids, kT5Target, context);
    rows.cu_seqlens = batch.target_bounds;
  }
  return rows;
}

Tensor T5Model::AttendToOwn(int index, const Tensor& normed, const std::vector<int32_t>& bounds,
                            const RunContext& context) {
  const T5Attention& self = t5_blocks_[static_cast<size_t>(index)].self;
  const Path path = PathOf(context, normed);
  const bool decodes = this->decodes(index);
  SequenceState* const state = decodes ? context.state : nullptr;
  const auto heads = [&](const Tensor& x) { return x.unflatten(1, {t5_.heads, t5_.head_dim}); };
  const auto qkv = Projections(
      path, normed, {self.query.Both(context), self.key.Both(context), self.value.Both(context)});
  int64_t span = 1;  // longest sequence
  for (size_t s = 0; s + 1 < bounds.size(); ++s) {
    const int32_t seen = state == nullptr ? 0 : state->lengths()[s];
    span = std::max<int64_t>(span, seen + bounds[s + 1] - bounds[s]);
  }
  if (decodes) span += added_.prefix_length();
  AttentionSpec spec;
  spec.q_bounds = spec.k_bounds = bounds;
  spec.causal = decodes;
  spec.relative_bias =
      GatherRows((decodes ? decoder_bias_ : encoder_bias_)->tensor,
                 Buckets(span, !decodes, t5_.buckets, t5_.max_distance).to(normed.device()))
          .t()
          .contiguous();
  spec.dropout = Site(context, index + 1, kT5Attention, t5_.dropout);
  return SelfAttention(path, index, heads(qkv[0]), heads(qkv[1]), heads(qkv[2]), std::move(spec),
                       state);
}

Tensor T5Model::CrossAttention(int index, const Tensor& normed, const Rows& rows,
                               const RunContext& context) {
  const T5Attention& cross = t5_blocks_[static_cast<size_t>(index)].cross;
  const Path path = PathOf(context, normed);
  const auto heads = [&](const Tensor& x) { return x.unflatten(1, {t5_.heads, t5_.head_dim}); };
  AttentionSpec spec;
  spec.q_bounds = rows.cu_seqlens;
  spec.k_bounds = rows.other_bounds;
  spec.dropout = Site(context, index + 1, kT5Cross, t5_.dropout);
  const Tensor q = Linear(path, normed, cross.query.Both(context));
  Tensor k, v;
  if (rows.other.defined()) {
    const auto kv =
        Projections(path, rows.other, {cross.key.Both(context), cross.value.Both(context)});
    k = kv[0];
    v = kv[1];
  }
  if (context.state != nullptr) {
    BlockState& kept = context.state->block(index);
    if (k.defined()) {
      kept.cross_keys.clear();
      kept.cross_values.clear();
      for (size_t s = 0; s + 1 < rows.other_bounds.size(); ++s) {
        const int32_t begin = rows.other_bounds[s], end = rows.other_bounds[s + 1];
        kept.cross_keys.push_back(k.slice(0, begin, end));
        kept.cross_values.push_back(v.slice(0, begin, end));
      }
    } else {
      k = at::cat(kept.cross_keys);
      v = at::cat(kept.cross_values);
      spec.k_bounds = {0};
      for (const Tensor& keys : kept.cross_keys) {
        spec.k_bounds.push_back(spec.k_bounds.back() + static_cast<int32_t>(keys.size(0)));
      }
    }
  }
  return Attention(path, heads(q), heads(k), heads(v), spec);
}

Rows T5Model::Block(int index, const Rows& rows, const RunContext& context) {
  const T5Block& block = t5_blocks_[static_cast<size_t>(index)];
  const Path path = PathOf(context, rows.data);
  const auto site = [&](T5Place place) { return Site(context, index + 1, place, t5_.dropout); };
  const Tensor normed = Normalise(path, rows.data, NormOf(block.self.norm));
  const AddedToBlock* const added = added_.Of(index);
  const Tensor attended = Linear(path, AttendToOwn(index, normed, rows.cu_seqlens, context),
                                 block.self.output.Both(context));
  SumAndNorm middle = ResidualAndNorm(
      path, AfterAttention(path, added, attended, Tensor()), Tensor(), rows.data,
      NormOf(decodes(index) ? block.cross.norm : block.norm), site(kT5AttentionOutput));
  if (decodes(index)) {
    Tensor crossed = Linear(path, CrossAttention(index, middle.normed, rows, context),
                            block.cross.output.Both(context));
    if (added != nullptr) {
      crossed = WithBottleneck(path, added->after_cross_attention, crossed, Tensor());
    }
    middle = ResidualAndNorm(path, crossed, Tensor(), middle.sum, NormOf(block.norm),
                             site(kT5CrossOutput));
  }
  const Tensor dense =
      t5_.gated ? GatedMlp(path, t5_.activation, middle.normed, block.gate.Both(context),
                           block.up.Both(context), block.down.Both(context), site(kT5Inner))
                : Mlp(path, t5_.activation, middle.normed, block.up.Both(context),
                      block.down.Both(context), site(kT5Inner));
  Rows out = rows;
  out.data = Residual(path, AfterFeedForward(path, added, middle.normed, dense, Tensor()), Tensor(),
                      middle.sum, site(kT5Output));
  if (index + 1 != first_decoder_block_) return out;
  const Tensor encoded =
      Dropout(path, Normalise(path, out.data, NormOf(encoder_norm_)), site(kT5Final));
  return {rows.other, rows.other_bounds, encoded, rows.cu_seqlens};
}

Tensor T5Model::Hidden(const Rows& rows, const RunContext& context) {
  const Path path = PathOf(context, rows.data);
  Norm norm = NormOf(config_.encoder_decoder ? decoder_norm_ : encoder_norm_);
  norm.type = torch::kFloat;
  return Dropout(path, Normalise(path, rows.data, norm),
                 Site(context, blocks() + 1, kT5Final, t5_.dropout));
}

Tensor T5Model::OutputStates(const Rows& rows, const Tensor& selected, const RunContext& context) {
  Rows few = rows;
  if (selected.defined()) few.data = GatherRows(rows.data, selected);
  const Tensor states = Hidden(few, context);
  const Tensor scaled = t5_.scales_output
                            ? states * std::pow(static_cast<double>(config_.hidden_size), -0.5)
                            : states;
  return scaled.to(rows_type());
}

absl::StatusOr<std::unique_ptr<Model>> LoadT5(ModelConfig config, const std::string& directory,
                                              const std::optional<HeadSpec>& head) {
  ConfigFields fields(config.source);
  const T5Config t5 = ReadT5(fields, &config);
  auto model = std::make_unique<T5Model>(std::move(config), t5);
  THAW_RETURN_IF_ERROR(model->Load(directory, head));
  return std::unique_ptr<Model>(std::move(model));
}

}  // namespace

const Family kT5Family = {"t5",
                          nullptr,
                          "T5ForConditionalGeneration",
                          [](ConfigFields& fields, ModelConfig* config) { ReadT5(fields, config); },
                          LoadT5,
                          kT5TokenTables};

}  // namespace thaw
