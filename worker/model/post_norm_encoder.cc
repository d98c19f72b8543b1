#include "worker/model/post_norm_encoder.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/model/ops.h"
#include "worker/model/packed_rows.h"

namespace thaw {
namespace {

using torch::Tensor;

// Where dropout acts within a group.
enum EncoderPlace : uint32_t {
  kEncoderEmbeddings,
  kEncoderAttention,
  kEncoderAttentionOutput,
  kEncoderOutput,
  kEncoderClassifier,
  kEncoderClassifierInput
};

// The table with one row that gets no gradient.
Tensor WithFrozenRow(const Tensor& table, int64_t row) {
  if (!table.requires_grad()) return table;
  const Tensor trains =
      at::ne(at::arange(table.size(0), table.options().dtype(torch::kInt64)), row).unsqueeze(1);
  return at::where(trains, table, table.detach());
}

}  // namespace

void PostNormEncoder::LoadEmbeddings(ModelLoader& loader) {
  const int64_t d = config_.hidden_size;
  loader.StartGroup("embeddings");
  loader.StartKind(ParameterKind::kEmbedding);
  word_ = loader.Tensor(Base("embeddings.word_embeddings.weight"), {config_.vocab_size, d});
  position_ =
      loader.Tensor(Base("embeddings.position_embeddings.weight"), {spec_.position_rows, d});
  if (names_.token_types != nullptr) {
    type_ = loader.Tensor(Base(names_.token_types), {spec_.token_types, d});
  }
  embeddings_norm_ = loader.Norm(Base("embeddings.LayerNorm"), d);
}

void PostNormEncoder::LoadBlock(ModelLoader& loader, int64_t index) {
  const int64_t d = config_.hidden_size, wide = spec_.intermediate_size;
  const std::string scope = absl::StrCat(names_.prefix, names_.layers, index, ".");
  loader.StartGroup(absl::StrCat("block.", index));
  BlockWeights block;
  loader.StartKind(ParameterKind::kAttention);
  block.query = loader.Linear(scope + names_.query, d, d);
  block.key = loader.Linear(scope + names_.key, d, d);
  block.value = loader.Linear(scope + names_.value, d, d);
  block.attention_output = loader.Linear(scope + names_.attention_output, d, d);
  block.attention_norm = loader.Norm(scope + names_.attention_norm, d);
  loader.StartKind(ParameterKind::kFeedForward);
  block.intermediate = loader.Linear(scope + names_.intermediate, wide, d);
  block.output = loader.Linear(scope + names_.output, d, wide);
  block.output_norm = loader.Norm(scope + names_.output_norm, d);
  block_weights_.push_back(block);
}

void PostNormEncoder::LoadClassifier(ModelLoader& loader, const std::optional<HeadSpec>& head,
                                     bool keeps) {
  const int64_t d = config_.hidden_size;
  const int64_t labels = static_cast<int64_t>(config_.labels.size());
  const bool on_pooler = names_.dense == nullptr;
  const std::string dense = on_pooler ? Base(names_.pooler) : names_.dense;
  if (on_pooler ? !head || loader.Has(dense + ".weight") : keeps) {
    dense_ = loader.Linear(dense, d, d);
  } else {
    dense_ = loader.FreshLinear(dense, d, d, head->seed, 1);
    if (on_pooler)
      loader.Warn(absl::StrCat("the base model has no pooler (", dense, "): drawn anew"));
  }
  if (keeps) {
    classifier_ = loader.Linear(names_.classifier, labels, d);
  } else {
    classifier_ = loader.FreshLinear(names_.classifier, labels, d, head->seed, 2);
  }
}

void PostNormEncoder::LoadLanguageModel(ModelLoader& loader) {
  const int64_t d = config_.hidden_size;
  const std::string output = names_.language_model_output, bias = names_.language_model_bias;
  transform_ = loader.Linear(names_.transform, d, d);
  transform_norm_ = loader.Norm(names_.transform_norm, d);
  output_bias_ = loader.AsBias(loader.Tensor(bias, {config_.vocab_size}));
  // transformers' module has the bias twice, and so have some files.
  if (bias != output + ".bias") output_bias_ = loader.TiedOutput(output + ".bias", output_bias_);
  output_ = loader.TiedOutput(output + ".weight", word_);
}

absl::Status PostNormEncoder::Load(const std::string& directory,
                                   const std::optional<HeadSpec>& head) {
  THAW_ASSIGN_OR_RETURN(Weights weights,
                        Weights::Open(directory, names_.prefix, names_.base_parts));
  ModelLoader loader(&weights, this);
  LoadEmbeddings(loader);
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
      if (names_.pooler != nullptr && loader.Has(Base(names_.pooler) + ".weight")) {
        loader.Linear(Base(names_.pooler), config_.hidden_size, config_.hidden_size);
      }
      break;
  }
  return loader.Finish(names_.heads, names_.buffers);
}

Tensor PostNormEncoder::PositionIds(const Packed& batch, const RunContext& context,
                                    bool* padding) const {
  const torch::Device device = batch.token_ids.device();
  if (!spec_.positions_skip_padding || device.is_meta()) {
    return Positions(batch.cu_seqlens, context, device);
  }
  const Tensor ids = batch.token_ids.cpu();
  const int64_t* const id = ids.const_data_ptr<int64_t>();
  Tensor positions = at::empty_like(ids);
  int64_t* const out = positions.data_ptr<int64_t>();
  for (size_t s = 0; s + 1 < batch.cu_seqlens.size(); ++s) {
    int64_t counted = added_.prefix_length();
    for (int32_t r = batch.cu_seqlens[s]; r < batch.cu_seqlens[s + 1]; ++r) {
      const bool is_padding = id[r] == spec_.pad_token_id;
      *padding |= is_padding;
      out[r] = spec_.pad_token_id + (is_padding ? 0 : ++counted);
    }
  }
  return positions.to(device);
}

Rows PostNormEncoder::EmbedPrompted(const Packed& batch, const RunContext& context) {
  const Path path = PathOf(context, batch.token_ids);
  const auto embedded = [&](const Tensor& ids, const Parameter* table, int64_t padding,
                            const char* what) {
    CheckIds(ids, table->tensor.size(0), what);
    return Embedding(path, {ids, Tensor(), Tensor(), padding}, table->tensor, Tensor(),
                     DropoutSite());
  };
  Rows rows;
  rows.cu_seqlens = batch.cu_seqlens;
  rows.data = WithPrompt(
      embedded(batch.token_ids, word_,
               spec_.pad_token_id < config_.vocab_size ? spec_.pad_token_id : -1, "token id"),
      &rows.cu_seqlens);
  // As transformers has it of what is embedded already: padding among the tokens counts too.
  Tensor positions = Positions(rows.cu_seqlens, context, rows.data.device());
  if (spec_.positions_skip_padding) positions = positions + (spec_.pad_token_id + 1);
  rows.data = rows.data + embedded(positions, position_, -1, "position");
  if (type_ != nullptr) {
    const auto options = batch.token_ids.options();
    std::vector<int32_t> bounds = batch.cu_seqlens;
    const Tensor types =
        batch.token_type_ids.defined()
            ? BeforeEach(at::zeros({added_.virtual_tokens}, options), batch.token_type_ids, &bounds)
            : at::zeros({rows.data.size(0)}, options);
    rows.data = rows.data + embedded(types, type_, -1, "token type");
  }
  rows.data = Dropout(path,
                      Normalise(path, rows.data,
                                {NormKind::kLayer, embeddings_norm_.w(), embeddings_norm_.b(),
                                 spec_.norm_epsilon, rows_type()}),
                      Site(context, 0, kEncoderEmbeddings, spec_.embedding_dropout));
  return rows;
}

Rows PostNormEncoder::Embed(const Packed& batch, const RunContext& context) {
  if (BeginsWithPrompt(context)) return EmbedPrompted(batch, context);
  bool padding = false;
  EmbeddingInputs inputs{batch.token_ids, PositionIds(batch, context, &padding),
                         type_ == nullptr ? Tensor() : batch.token_type_ids,
                         spec_.pad_token_id < config_.vocab_size ? spec_.pad_token_id : -1,
                         rows_type()};
  CheckIds(inputs.ids, config_.vocab_size, "token id");
  CheckIds(inputs.positions, spec_.position_rows, "position");
  CheckIds(inputs.types, spec_.token_types, "token type");
  const Tensor rows = EmbeddingNorm(
      PathOf(context, batch.token_ids), inputs, word_->tensor,
      padding ? WithFrozenRow(position_->tensor, spec_.pad_token_id) : position_->tensor,
      type_ == nullptr ? Tensor() : type_->tensor, embeddings_norm_.w(), embeddings_norm_.b(),
      spec_.norm_epsilon, Site(context, 0, kEncoderEmbeddings, spec_.embedding_dropout));
  return {rows, batch.cu_seqlens, Tensor(), {}};
}

Model::KeyShape PostNormEncoder::PrefixShape() const {
  // transformers' DistilBERT takes no keys from outside.
  if (config_.model_type == "distilbert") return {};
  return {spec_.num_heads, config_.hidden_size / spec_.num_heads};
}

Rows PostNormEncoder::Block(int index, const Rows& rows, const RunContext& context) {
  const BlockWeights& block = block_weights_[static_cast<size_t>(index)];
  const Path path = PathOf(context, rows.data);
  const int64_t head_dim = config_.hidden_size / spec_.num_heads;
  const auto heads = [&](const Tensor& x) { return x.unflatten(1, {spec_.num_heads, head_dim}); };

  Rows in = rows;  // the rows that go through all of the block
  std::vector<Tensor> qkv;
  if (index + 1 == blocks() && config_.head == HeadKind::kClassifier && !context.all_rows) {
    in.data = FirstRows(rows.data, rows.cu_seqlens);
    in.cu_seqlens = UnitBounds(rows.cu_seqlens.size() - 1);
    qkv = {Linear(path, in.data, block.query.Both(context))};
    const auto kv =
        Projections(path, rows.data, {block.key.Both(context), block.value.Both(context)});
    qkv.insert(qkv.end(), kv.begin(), kv.end());
  } else {
    qkv = Projections(
        path, rows.data,
        {block.query.Both(context), block.key.Both(context), block.value.Both(context)});
  }
  AttentionSpec spec;
  spec.q_bounds = in.cu_seqlens;
  spec.k_bounds = rows.cu_seqlens;
  spec.scale = 1 / std::sqrt(static_cast<double>(head_dim));
  spec.dropout = Site(context, index + 1, kEncoderAttention, spec_.attention_dropout);
  const AddedToBlock* const added = added_.Of(index);
  const Tensor attended = Linear(
      path, SelfAttention(path, index, heads(qkv[0]), heads(qkv[1]), heads(qkv[2]), spec, nullptr),
      block.attention_output.Unbiased(context));
  const Tensor middle = ResidualNorm(
      path, AfterAttention(path, added, attended, block.attention_output.b()),
      block.attention_output.b(), in.data, block.attention_norm.w(), block.attention_norm.b(),
      spec_.norm_epsilon,
      Site(context, index + 1, kEncoderAttentionOutput, spec_.attention_output_dropout));
  const Tensor mlp = Mlp(path, spec_.activation, middle, block.intermediate.Both(context),
                         block.output.Both(context), DropoutSite());
  in.data = ResidualNorm(path, AfterFeedForward(path, added, middle, mlp, block.output.b()),
                         block.output.b(), middle, block.output_norm.w(), block.output_norm.b(),
                         spec_.norm_epsilon,
                         Site(context, index + 1, kEncoderOutput, spec_.output_dropout));
  return in;
}

Tensor PostNormEncoder::Head(const Rows& rows, const RunContext& context) {
  const Path path = PathOf(context, rows.data);
  const int group = blocks() + 1;
  const Tensor first =
      OneRowEach(rows.data, rows.cu_seqlens) ? rows.data : FirstRows(rows.data, rows.cu_seqlens);
  const Tensor input =
      Dropout(path, first.to(torch::kFloat),
              Site(context, group, kEncoderClassifierInput, spec_.classifier_input_dropout));
  const Tensor dense = Linear(path, input, dense_.Both(context));
  // at::relu does not run on the meta device.
  const Tensor pooled = spec_.classifier_relu ? at::threshold(dense, 0, 0) : at::tanh(dense);
  return Linear(
      path,
      Dropout(path, pooled, Site(context, group, kEncoderClassifier, spec_.classifier_dropout)),
      classifier_.Both(context));
}

Tensor PostNormEncoder::OutputStates(const Rows& rows, const Tensor& selected,
                                     const RunContext& context) {
  const Path path = PathOf(context, rows.data);
  const Tensor states = selected.defined() ? GatherRows(rows.data, selected) : rows.data;
  const Tensor transformed = Activate(path, spec_.language_model_activation,
                                      Linear(path, states, transform_.Both(context)));
  return Normalise(path, transformed,
                   {NormKind::kLayer, transform_norm_.w(), transform_norm_.b(), spec_.norm_epsilon,
                    rows_type()});
}

}  // namespace thaw
