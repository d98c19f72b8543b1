#include "worker/model/model_loader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "worker/model/family.h"
#include "worker/model/fresh_tensor.h"
#include "worker/model/nf4_files.h"

namespace thaw {
namespace {

// Streams of the seed that no family has.
constexpr uint64_t kPooledHeadStream = uint64_t{1} << 15;

// "a, b, c, …": the first few names.
std::string FirstNames(const std::vector<std::string>& names) {
  const size_t shown = std::min<size_t>(names.size(), 5);
  return absl::StrCat(absl::StrJoin(names.begin(), names.begin() + shown, ", "),
                      shown < names.size() ? ", …" : "");
}

}  // namespace

torch::Tensor WeightPair::b() const {
  if (bias == nullptr) return torch::Tensor();
  const bool scaled = linear != nullptr && linear->added && linear->added->output_scale != nullptr;
  return scaled ? bias->tensor * linear->added->output_scale->tensor.view(-1) : bias->tensor;
}

WeightAndBias WeightPair::Both(const RunContext& context) const {
  WeightAndBias both = Unbiased(context);
  if (bias != nullptr) both.bias = bias->tensor;
  return both;
}

WeightAndBias WeightPair::Unbiased(const RunContext& context) const {
  WeightAndBias result{w(), torch::Tensor(), linear->input_major, weight->half};
  if (!linear->added) return result;
  const AddedToLinear& added = *linear->added;
  if (added.down != nullptr) {
    result.low_rank.down = added.down->tensor;
    result.low_rank.up = added.up->tensor;
    result.low_rank.down_half = added.down->half;
    result.low_rank.up_half = added.up->half;
    result.low_rank.scale = added.scale;
    if (context.training) {
      result.low_rank.dropout =
          MakeDropoutSite(context.dropout.seed, context.dropout.step, context.dropout.micro_step,
                          added.dropout_site, added.dropout);
    }
    if (added.magnitude != nullptr) {
      result.low_rank.magnitude = added.magnitude->tensor;
      result.weight = weight->master();  // whose rows' lengths it takes
    }
  }
  if (added.input_scale != nullptr) result.input_scale = added.input_scale->tensor.view(-1);
  if (added.output_scale != nullptr) result.output_scale = added.output_scale->tensor.view(-1);
  return result;
}

void ModelLoader::StartGroup(std::string name) {
  model_->groups_.push_back({std::move(name), {}});
  kind_ = ParameterKind::kOther;
}

const Parameter* ModelLoader::Tensor(const std::string& name, const std::vector<int64_t>& shape) {
  return Take(name, shape, /*stored=*/false);
}

bool ModelLoader::rounds() const {
  const ModelConfig& config = model_->config_;
  return config.half &&
         (model_->groups_.back().name != "head" || config.head == HeadKind::kLanguageModel);
}

const Parameter* ModelLoader::Take(const std::string& name, const std::vector<int64_t>& shape,
                                   bool stored) {
  if (!status_.ok()) return nullptr;
  const Parameter* parameter =
      Add(name, stored ? weights_->TakeStored(name, shape) : weights_->Take(name, shape));
  if (parameter != nullptr && model_->config_.quantises && IsTokenTable(*parameter)) {
    model_->parameters_.Compress(parameter, parameter->tensor.to(torch::kBFloat16));
  }
  return parameter;
}

bool ModelLoader::IsTokenTable(const Parameter& parameter) const {
  if (parameter.tensor.dim() != 2) return false;
  for (const char* table : FindFamily(model_->config_.model_type)->token_tables) {
    if (parameter.name == table || absl::EndsWith(parameter.name, absl::StrCat(".", table))) {
      return true;
    }
  }
  return false;
}

const Parameter* ModelLoader::Matrix(const std::string& name, const std::vector<int64_t>& shape,
                                     bool input_major) {
  if (!status_.ok()) return nullptr;
  Parameters& parameters = model_->parameters_;
  if (model_->config_.nf4 && HoldsNf4(*weights_, name)) {
    const Parameter* parameter = Add(name, TakeNf4(weights_, name, shape, input_major));
    if (parameter != nullptr) parameters.MarkCompressed(parameter);
    return parameter;
  }
  const Parameter* parameter = Take(name, shape, rounds());
  // transformers keeps these of T5 in fp32 whatever is asked for, and would read codes as weights.
  if (absl::EndsWith(name, ".DenseReluDense.wo.weight")) return parameter;
  const bool of_block = kind_ == ParameterKind::kAttention || kind_ == ParameterKind::kFeedForward;
  if (parameter == nullptr || !of_block || !model_->config_.quantises) return parameter;
  parameters.Compress(
      parameter, Nf4Tensor(std::make_shared<const Nf4Matrix>(
                     QuantiseNf4(parameter->tensor, input_major, model_->config_.nf4->nested))));
  return parameter;
}

const Parameter* ModelLoader::Add(const std::string& name, absl::StatusOr<TensorSource> source) {
  if (!source.ok()) {
    status_ = source.status();
    return nullptr;
  }
  model_->groups_.back().parameters.push_back(name);
  Parameter parameter;
  parameter.name = name;
  parameter.kind = kind_;
  parameter.group = parameter.first_use = group();
  parameter.tensor = source->loaded;
  parameter.source = *std::move(source);
  return model_->parameters_.Add(std::move(parameter));
}

const Parameter* ModelLoader::AsBias(const Parameter* parameter) {
  if (parameter != nullptr) model_->parameters_.MarkBias(parameter);
  return parameter;
}

const Parameter* ModelLoader::WithoutDecay(const Parameter* parameter) {
  if (parameter != nullptr) model_->parameters_.KeepFromDecay(parameter);
  return parameter;
}

WeightPair ModelLoader::Linear(const std::string& scope, int64_t out, int64_t in, bool bias) {
  WeightPair pair;
  pair.weight = Matrix(scope + ".weight", {out, in}, /*input_major=*/false);
  if (bias) pair.bias = AsBias(Tensor(scope + ".bias", {out}));
  return AsLinear(scope, pair);
}

WeightPair ModelLoader::AsLinear(const std::string& scope, WeightPair pair, bool input_major) {
  if (!status_.ok()) return pair;
  model_->linears_.push_back({scope, pair.weight, pair.bias, input_major, std::nullopt});
  pair.linear = &model_->linears_.back();
  return pair;
}

WeightPair ModelLoader::InputMajorLinear(const std::string& scope, int64_t in, int64_t out) {
  WeightPair pair;
  pair.weight = Matrix(scope + ".weight", {in, out}, /*input_major=*/true);
  pair.bias = AsBias(Tensor(scope + ".bias", {out}));
  return AsLinear(scope, pair, /*input_major=*/true);
}

WeightPair ModelLoader::Norm(const std::string& scope, int64_t width, bool bias) {
  const ParameterKind around = std::exchange(kind_, ParameterKind::kNorm);
  WeightPair pair;
  pair.weight = Tensor(scope + ".weight", {width});
  if (bias) pair.bias = AsBias(Tensor(scope + ".bias", {width}));
  kind_ = around;
  return pair;
}

WeightPair ModelLoader::FreshNorm(const std::string& scope, int64_t width) {
  const ParameterKind around = std::exchange(kind_, ParameterKind::kNorm);
  WeightPair pair;
  pair.weight = Fresh(scope + ".weight", at::ones({width}));
  pair.bias = AsBias(Fresh(scope + ".bias", at::zeros({width})));
  kind_ = around;
  return pair;
}

const Parameter* ModelLoader::Fresh(const std::string& name, torch::Tensor tensor) {
  if (!status_.ok()) return nullptr;
  model_->groups_.back().parameters.push_back(name);
  Parameter parameter;
  parameter.name = name;
  parameter.kind = kind_;
  parameter.group = parameter.first_use = group();
  parameter.tensor = std::move(tensor);
  return model_->parameters_.Add(std::move(parameter));
}

const Parameter* ModelLoader::Buffer(const std::string& name, const std::vector<int64_t>& shape,
                                     torch::ScalarType type) {
  if (!status_.ok()) return nullptr;
  absl::StatusOr<TensorSource> source = weights_->TakeAs(name, shape, type);
  if (!source.ok()) {
    status_ = source.status();
    return nullptr;
  }
  Parameter parameter;
  parameter.name = name;
  parameter.group = parameter.first_use = group();
  parameter.buffer = true;
  parameter.tensor = source->loaded;
  parameter.source = *std::move(source);
  return model_->parameters_.Add(std::move(parameter));
}

const Parameter* ModelLoader::FreshBuffer(const std::string& name, torch::Tensor tensor) {
  if (!status_.ok()) return nullptr;
  Parameter parameter;
  parameter.name = name;
  parameter.group = parameter.first_use = group();
  parameter.buffer = true;
  parameter.tensor = std::move(tensor);
  return model_->parameters_.Add(std::move(parameter));
}

void ModelLoader::Alias(const Parameter* parameter, const std::string& name) {
  weights_->Leave(name);
  model_->parameters_.AddAlias(parameter->name, name);
}

WeightPair ModelLoader::FreshLinear(const std::string& scope, int64_t out, int64_t in,
                                    uint64_t seed, uint64_t stream, bool bias) {
  WeightPair pair;
  pair.weight = Fresh(scope + ".weight",
                      NormalTensor({out, in}, model_->config_.initializer_range, seed, stream));
  if (bias) pair.bias = AsBias(Fresh(scope + ".bias", at::zeros({out})));
  return AsLinear(scope, pair);
}

const Parameter* ModelLoader::TiedOutput(const std::string& name, const Parameter* word) {
  if (!status_.ok()) return nullptr;
  const auto shape = word->tensor.sizes().vec();
  if (weights_->Has(name)) {
    absl::StatusOr<TensorSource> own = weights_->Take(name, shape);
    if (!own.ok()) {
      status_ = own.status();
      return nullptr;
    }
    if (!at::equal(own->loaded.to(word->tensor.scalar_type()), word->tensor)) {
      if (word->bias) return AsBias(Tensor(name, shape));
      const Parameter* output = Take(name, shape, rounds());
      if (rounds()) model_->parameters_.MarkRounded(output);
      return output;
    }
    model_->parameters_.AddAlias(word->name, own->name);
  }
  // The group of the embeddings gives it away to that of the head.
  for (Group& group : model_->groups_) std::erase(group.parameters, word->name);
  model_->groups_.back().parameters.push_back(word->name);
  model_->parameters_.SetGroup(word->name, group());
  if (rounds() && !word->bias) model_->parameters_.MarkRounded(word);
  return word;
}

const Parameter* ModelLoader::OutputLayer(const std::string& name, const Parameter* word) {
  if (ok() && !model_->config_.ties_output && !weights_->Has(name)) {
    Warn(absl::StrCat("the base model has no output layer (", name,
                      "), though config.json does not tie it: it is the embeddings"));
    // Whoever loads the result by its config.json would draw an output layer anew.
    model_->parameters_.AddAlias(word->name, name);
  }
  return TiedOutput(name, word);
}

void ModelLoader::Copy(const std::string& name, const Parameter* parameter) {
  if (!status_.ok() || !weights_->Has(name)) return;
  absl::StatusOr<TensorSource> copy = weights_->Take(name, parameter->tensor.sizes().vec());
  if (!copy.ok()) {
    status_ = copy.status();
  } else if (!at::equal(copy->loaded.to(parameter->tensor.scalar_type()), parameter->tensor)) {
    status_ = absl::InvalidArgumentError(
        absl::StrCat(copy->file->path(), ": tensor \"", name, "\": expected the values of \"",
                     parameter->name, "\", which the model shares, found others"));
  } else {
    model_->parameters_.AddAlias(parameter->name, copy->name);
  }
}

void ModelLoader::AddPooledLayer(int index, int64_t out, int64_t in, const Parameter* pair[2]) {
  const std::string scope = absl::StrCat(kPooledHeadScope, index);
  if (model_->pooled_seed_) {
    pair[0] =
        Fresh(scope + ".weight",
              NormalTensor({out, in}, model_->config_.initializer_range, *model_->pooled_seed_,
                           kPooledHeadStream + static_cast<uint64_t>(index)));
    pair[1] = AsBias(Fresh(scope + ".bias", at::zeros({out})));
  } else {
    pair[0] = Tensor(scope + ".weight", {out, in});
    pair[1] = AsBias(Tensor(scope + ".bias", {out}));
  }
}

void ModelLoader::EndInPooledHead() {
  std::vector<Group>& groups = model_->groups_;
  const PooledHeadConfig& head = *model_->config_.pooled;
  const int all = model_->all_blocks_ = static_cast<int>(groups.size()) - 2;
  const int blocks = static_cast<int>(head.blocks);
  if (head.blocks > all) {
    status_ = InvalidField("pooled_head.blocks", absl::StrCat(head.blocks, "; the model has ", all,
                                                              " blocks, so give at most that"));
    return;
  }
  std::vector<std::string> above;
  for (int i = blocks + 1; i < static_cast<int>(groups.size()); ++i) {
    above.insert(above.end(), groups[i].parameters.begin(), groups[i].parameters.end());
  }
  groups.resize(static_cast<size_t>(blocks) + 1);
  for (const std::string& name : above) {
    const bool final_norm =
        blocks == all && model_->parameters_.Find(name)->kind == ParameterKind::kNorm;
    if (final_norm) groups.back().parameters.push_back(name);
    model_->parameters_.MoveToGroup(name, final_norm ? blocks : 0);
  }
  // Layers above lie behind those that run.
  while (!model_->linears_.empty() &&
         std::count(above.begin(), above.end(), model_->linears_.back().weight->name) > 0) {
    model_->linears_.pop_back();
  }
  StartGroup("head");
  const int64_t d = model_->config_.hidden_size;
  const auto labels = static_cast<int64_t>(model_->config_.labels.size());
  if (head.linear()) {
    AddPooledLayer(0, labels, d, model_->pooled_outer_);
  } else {
    AddPooledLayer(0, head.hidden_size, d, model_->pooled_inner_);
    AddPooledLayer(2, labels, head.hidden_size, model_->pooled_outer_);
  }
  model_->config_.head = HeadKind::kClassifier;
}

void ModelLoader::MarkMatrices() {
  const ModelConfig& config = model_->config_;
  if (!config.half) return;
  for (const LinearLayer& linear : model_->linears_) {
    if (linear.weight->group < group() || config.head == HeadKind::kLanguageModel) {
      model_->parameters_.MarkRounded(linear.weight);
    }
  }
}

absl::Status ModelLoader::Finish(const std::vector<std::string>& other_heads,
                                 const std::vector<std::string>& buffers) {
  if (status_.ok() && model_->config_.pooled) EndInPooledHead();
  THAW_RETURN_IF_ERROR(status_);
  std::vector<std::string> unused, unknown;
  for (const std::string& name : weights_->Rest()) {
    const auto ends = [&](const std::string& suffix) { return absl::EndsWith(name, suffix); };
    const auto begins = [&](const std::string& prefix) { return absl::StartsWith(name, prefix); };
    if (std::any_of(buffers.begin(), buffers.end(), ends)) continue;
    const bool known =
        begins(kPooledHeadScope) || std::any_of(other_heads.begin(), other_heads.end(), begins);
    (known ? unused : unknown).push_back(name);
  }
  if (!unknown.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        weights_->directory(), ": model_type \"", model_->config_.model_type, "\" with ",
        model_->config_.num_layers, " layers by config.json has no place for ", unknown.size(),
        " tensors of the files: ", FirstNames(unknown),
        "; give the config.json that belongs to them"));
  }
  if (!unused.empty()) {
    Warn(absl::StrCat(unused.size(), " tensors of the base model are not used by this task: ",
                      FirstNames(unused)));
  }
  MarkMatrices();
  model_->parameters_.RoundMatrices();
  return absl::OkStatus();
}

}  // namespace thaw
