#include "worker/model/bert.h"

#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "worker/model/fresh_tensor.h"
#include "worker/model/ops.h"
#include "worker/model/weights.h"

namespace thaw {
namespace {

using torch::Tensor;

// weight and bias of "<scope>.weight" and "<scope>.bias", as they are at this moment.
struct Pair {
  const Parameter* weight = nullptr;
  const Parameter* bias = nullptr;

  const Tensor& w() const { return weight->tensor; }
  const Tensor& b() const { return bias->tensor; }
  WeightAndBias both() const { return {w(), b()}; }
};

struct BertBlock {
  Pair query, key, value, attention_output, attention_norm, intermediate, output, output_norm;
};

// Where dropout acts within a group.
enum class Place : uint32_t { kEmbeddings, kAttention, kAttentionOutput, kOutput, kPooled };

class BertModel : public Model {
 public:
  explicit BertModel(ModelConfig config) : Model(std::move(config)) {}

  absl::Status Load(const std::string& directory, const std::optional<HeadSpec>& head);

  Rows Embed(const Packed& batch, const RunContext& context) override;
  Rows Block(int block, const Rows& rows, const RunContext& context) override;
  Tensor Head(const Rows& rows, const RunContext& context) override;

 private:
  absl::StatusOr<const Parameter*> Add(Weights& weights, std::string name,
                                       const std::vector<int64_t>& shape);
  absl::Status AddPair(Weights& weights, const std::string& scope, std::vector<int64_t> shape,
                       Pair* pair);
  absl::Status LoadBlock(Weights& weights, int64_t index);
  absl::Status LoadHead(Weights& weights, const std::optional<HeadSpec>& head);
  void AddFresh(const std::string& scope, std::vector<int64_t> shape, uint64_t seed,
                uint64_t stream, Pair* pair);
  void StartGroup(std::string name) { groups_.push_back({std::move(name), {}}); }
  DropoutSite Site(const RunContext& context, size_t group, Place place, double probability) const;
  static Path PathOf(const RunContext& context, const Tensor& data);

  const Parameter *word_ = nullptr, *position_ = nullptr, *type_ = nullptr;
  Pair embeddings_norm_, pooler_, classifier_;
  std::vector<BertBlock> bert_blocks_;
};

ActivationKind KindOf(Activation activation) {
  switch (activation) {
    case Activation::kGelu:
      return ActivationKind::kGeluErf;
    case Activation::kGeluTanh:
      return ActivationKind::kGeluTanh;
    case Activation::kRelu:
      return ActivationKind::kRelu;
  }
  TORCH_CHECK(false, "unknown activation");
}

// 0, 1, … in each sequence.
Tensor Positions(const std::vector<int32_t>& bounds) {
  Tensor positions = at::empty({bounds.back()}, torch::kInt64);
  int64_t* out = positions.data_ptr<int64_t>();
  for (size_t s = 0; s + 1 < bounds.size(); ++s) {
    for (int32_t r = bounds[s]; r < bounds[s + 1]; ++r) out[r] = r - bounds[s];
  }
  return positions;
}

// The kernels index without asking; a tokenizer of another model must not read past the table.
void CheckIds(const Tensor& ids, int64_t limit, const char* what) {
  if (!ids.defined() || !ids.is_cpu()) return;
  const int64_t* values = ids.data_ptr<int64_t>();
  for (int64_t i = 0; i < ids.numel(); ++i) {
    TORCH_CHECK_INDEX(values[i] >= 0 && values[i] < limit, what, " ", values[i], " in row ", i,
                      " is not below ", limit, ", the size of the model's table");
  }
}

// One row per sequence.
std::vector<int32_t> UnitBounds(size_t sequences) {
  std::vector<int32_t> bounds(sequences + 1);
  for (size_t i = 0; i < bounds.size(); ++i) bounds[i] = static_cast<int32_t>(i);
  return bounds;
}

absl::StatusOr<const Parameter*> BertModel::Add(Weights& weights, std::string name,
                                                const std::vector<int64_t>& shape) {
  THAW_ASSIGN_OR_RETURN(Tensor tensor, weights.Take(name, shape));
  groups_.back().parameters.push_back(name);
  return parameters_.Add(std::move(name), static_cast<int>(groups_.size()) - 1, std::move(tensor));
}

absl::Status BertModel::AddPair(Weights& weights, const std::string& scope,
                                std::vector<int64_t> shape, Pair* pair) {
  THAW_ASSIGN_OR_RETURN(pair->weight, Add(weights, scope + ".weight", shape));
  THAW_ASSIGN_OR_RETURN(pair->bias, Add(weights, scope + ".bias", {shape[0]}));
  return absl::OkStatus();
}

void BertModel::AddFresh(const std::string& scope, std::vector<int64_t> shape, uint64_t seed,
                         uint64_t stream, Pair* pair) {
  const int group = static_cast<int>(groups_.size()) - 1;
  groups_.back().parameters.insert(groups_.back().parameters.end(),
                                   {scope + ".weight", scope + ".bias"});
  pair->bias = nullptr;
  pair->weight = parameters_.Add(scope + ".weight", group,
                                 NormalTensor(shape, config_.initializer_range, seed, stream));
  pair->bias = parameters_.Add(scope + ".bias", group, at::zeros({shape[0]}));
}

absl::Status BertModel::LoadBlock(Weights& weights, int64_t index) {
  const int64_t d = config_.hidden_size, wide = config_.intermediate_size;
  const std::string scope = absl::StrCat("bert.encoder.layer.", index, ".");
  StartGroup(absl::StrCat("block.", index));
  BertBlock block;
  const struct {
    const char* name;
    std::vector<int64_t> shape;
    Pair* pair;
  } pairs[] = {{"attention.self.query", {d, d}, &block.query},
               {"attention.self.key", {d, d}, &block.key},
               {"attention.self.value", {d, d}, &block.value},
               {"attention.output.dense", {d, d}, &block.attention_output},
               {"attention.output.LayerNorm", {d}, &block.attention_norm},
               {"intermediate.dense", {wide, d}, &block.intermediate},
               {"output.dense", {d, wide}, &block.output},
               {"output.LayerNorm", {d}, &block.output_norm}};
  for (const auto& [name, shape, pair] : pairs) {
    THAW_RETURN_IF_ERROR(AddPair(weights, scope + name, shape, pair));
  }
  bert_blocks_.push_back(block);
  return absl::OkStatus();
}

absl::Status BertModel::LoadHead(Weights& weights, const std::optional<HeadSpec>& head) {
  const int64_t d = config_.hidden_size;
  StartGroup("head");
  const bool same_labels =
      !head || (head->labels == config_.labels && head->problem == config_.problem);
  if (head) {
    config_.labels = head->labels;
    config_.problem = head->problem;
  }
  const int64_t labels = static_cast<int64_t>(config_.labels.size());
  if (!head || weights.Has("bert.pooler.dense.weight")) {
    THAW_RETURN_IF_ERROR(AddPair(weights, "bert.pooler.dense", {d, d}, &pooler_));
  } else {
    AddFresh("bert.pooler.dense", {d, d}, head->seed, 1, &pooler_);
    warnings_.push_back("the base model has no pooler (bert.pooler.dense): drawn anew");
  }
  if (!head || (same_labels && weights.Fits("classifier.weight", {labels, d}))) {
    if (head) warnings_.push_back("the base model has a classifier of these labels: it is kept");
    return AddPair(weights, "classifier", {labels, d}, &classifier_);
  }
  AddFresh("classifier", {labels, d}, head->seed, 2, &classifier_);
  return absl::OkStatus();
}

absl::Status BertModel::Load(const std::string& directory, const std::optional<HeadSpec>& head) {
  THAW_ASSIGN_OR_RETURN(Weights weights,
                        Weights::Open(directory, "bert.", {"embeddings.", "encoder.", "pooler."}));
  const int64_t d = config_.hidden_size;
  StartGroup("embeddings");
  THAW_ASSIGN_OR_RETURN(
      word_, Add(weights, "bert.embeddings.word_embeddings.weight", {config_.vocab_size, d}));
  THAW_ASSIGN_OR_RETURN(position_, Add(weights, "bert.embeddings.position_embeddings.weight",
                                       {config_.max_positions, d}));
  THAW_ASSIGN_OR_RETURN(type_, Add(weights, "bert.embeddings.token_type_embeddings.weight",
                                   {config_.type_vocab_size, d}));
  THAW_RETURN_IF_ERROR(AddPair(weights, "bert.embeddings.LayerNorm", {d}, &embeddings_norm_));
  for (int64_t i = 0; i < config_.num_layers; ++i) THAW_RETURN_IF_ERROR(LoadBlock(weights, i));
  THAW_RETURN_IF_ERROR(LoadHead(weights, head));

  // Parts of other heads, and buffers that old files hold, are no loss for this task.
  std::vector<std::string> ignored;
  for (const std::string& name : weights.Rest()) {
    if (!absl::EndsWith(name, "embeddings.position_ids")) ignored.push_back(name);
  }
  if (!ignored.empty()) {
    const size_t shown = std::min<size_t>(ignored.size(), 5);
    warnings_.push_back(absl::StrCat(ignored.size(),
                                     " tensors of the base model are not used by this task: ",
                                     absl::StrJoin(ignored.begin(), ignored.begin() + shown, ", "),
                                     shown < ignored.size() ? ", …" : ""));
  }
  return absl::OkStatus();
}

DropoutSite BertModel::Site(const RunContext& context, size_t group, Place place,
                            double probability) const {
  if (!context.training) return DropoutSite();
  return MakeDropoutSite(context.dropout.seed, context.dropout.step, context.dropout.micro_step,
                         static_cast<uint32_t>(group) * 8 + static_cast<uint32_t>(place),
                         probability);
}

Path BertModel::PathOf(const RunContext& context, const Tensor& data) {
  return context.reference || !data.is_cpu() ? Path::kReference : Path::kKernels;
}

Rows BertModel::Embed(const Packed& batch, const RunContext& context) {
  EmbeddingInputs inputs{
      batch.token_ids,
      batch.position_ids.defined() ? batch.position_ids
                                   : Positions(batch.cu_seqlens).to(batch.token_ids.device()),
      batch.token_type_ids, config_.pad_token_id < config_.vocab_size ? config_.pad_token_id : -1};
  CheckIds(inputs.ids, config_.vocab_size, "token id");
  CheckIds(inputs.positions, config_.max_positions, "position");
  CheckIds(inputs.types, config_.type_vocab_size, "token type");
  const Tensor rows =
      EmbeddingNorm(PathOf(context, batch.token_ids), inputs, word_->tensor, position_->tensor,
                    type_->tensor, embeddings_norm_.w(), embeddings_norm_.b(), config_.norm_epsilon,
                    Site(context, 0, Place::kEmbeddings, config_.hidden_dropout));
  return {rows, batch.cu_seqlens};
}

Rows BertModel::Block(int index, const Rows& rows, const RunContext& context) {
  const BertBlock& block = bert_blocks_[static_cast<size_t>(index)];
  const size_t group = static_cast<size_t>(index) + 1;
  const Path path = PathOf(context, rows.data);
  const double hidden_dropout = config_.hidden_dropout;
  const bool head_rows_only = index + 1 == blocks() && !context.all_rows;

  Rows in = rows;  // the rows that go through all of the block
  std::vector<Tensor> qkv;
  if (head_rows_only) {
    in = {FirstRows(rows.data, rows.cu_seqlens), UnitBounds(rows.cu_seqlens.size() - 1)};
    qkv = {Linear(path, in.data, block.query.w(), block.query.b())};
    const auto kv = Projections(path, rows.data, {block.key.both(), block.value.both()});
    qkv.insert(qkv.end(), kv.begin(), kv.end());
  } else {
    qkv = Projections(path, rows.data, {block.query.both(), block.key.both(), block.value.both()});
  }
  const Tensor attended =
      Attention(path, qkv[0], qkv[1], qkv[2], in.cu_seqlens, rows.cu_seqlens, config_.num_heads,
                Site(context, group, Place::kAttention, config_.attention_dropout));
  const Tensor middle = ResidualNorm(
      path, Linear(path, attended, block.attention_output.w(), Tensor()),
      block.attention_output.b(), in.data, block.attention_norm.w(), block.attention_norm.b(),
      config_.norm_epsilon, Site(context, group, Place::kAttentionOutput, hidden_dropout));
  const Tensor out =
      ResidualNorm(path,
                   Mlp(path, KindOf(config_.activation), middle, block.intermediate.w(),
                       block.intermediate.b(), block.output.w()),
                   block.output.b(), middle, block.output_norm.w(), block.output_norm.b(),
                   config_.norm_epsilon, Site(context, group, Place::kOutput, hidden_dropout));
  return {out, std::move(in.cu_seqlens)};
}

Tensor BertModel::Head(const Rows& rows, const RunContext& context) {
  const Path path = PathOf(context, rows.data);
  const bool one_each = rows.data.size(0) + 1 == static_cast<int64_t>(rows.cu_seqlens.size());
  const Tensor first = one_each ? rows.data : FirstRows(rows.data, rows.cu_seqlens);
  const Tensor pooled = at::tanh(Linear(path, first, pooler_.w(), pooler_.b()));
  const DropoutSite site =
      Site(context, groups_.size() - 1, Place::kPooled, config_.classifier_dropout);
  return Linear(path, Dropout(path, pooled, site), classifier_.w(), classifier_.b());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> LoadBert(ModelConfig config, const std::string& directory,
                                                const std::optional<HeadSpec>& head) {
  auto model = std::make_unique<BertModel>(std::move(config));
  THAW_RETURN_IF_ERROR(model->Load(directory, head));
  return std::unique_ptr<Model>(std::move(model));
}

}  // namespace thaw
