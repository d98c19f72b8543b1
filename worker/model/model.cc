#include "worker/model/model.h"

#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "common/delta/delta.h"
#include "common/spec/fp32_only.h"
#include "worker/model/family.h"
#include "worker/model/nf4_files.h"
#include "worker/model/packed_rows.h"
#include "worker/model/tensor_view.h"

namespace thaw {

torch::Tensor Model::OutputStates(const Rows&, const torch::Tensor&, const RunContext&) {
  TORCH_CHECK(false, config_.model_type, " has no language model's head");
}

OutputLayer Model::output_layer() const {
  TORCH_CHECK(false, config_.model_type, " has no language model's head");
}

DropoutSite Model::Site(const RunContext& context, int group, uint32_t place, double probability) {
  if (!context.training) return DropoutSite();
  return MakeDropoutSite(context.dropout.seed, context.dropout.step, context.dropout.micro_step,
                         static_cast<uint32_t>(group) * 8 + place, probability);
}

torch::Tensor Model::LastHidden(const Rows& rows, const RunContext& context) {
  const bool cut = config_.pooled && config_.pooled->blocks < all_blocks_;
  return cut ? rows.data.to(torch::kFloat) : Hidden(rows, context);
}

torch::Tensor Model::PooledLogits(const torch::Tensor& vectors, const RunContext& context) const {
  const Path path = PathOf(context, vectors);
  const auto layer = [&](const torch::Tensor& x, const Parameter* const pair[2]) {
    return Linear(path, x, {pair[0]->tensor, pair[1]->tensor});
  };
  torch::Tensor inner = vectors;
  // at::relu does not run on the meta device.
  if (pooled_inner_[0] != nullptr) inner = at::threshold(layer(inner, pooled_inner_), 0, 0);
  inner = Dropout(path, inner, Site(context, blocks() + 1, 0, config_.pooled->dropout));
  return layer(inner, pooled_outer_);
}

bool Model::ChooseHead(const std::optional<HeadSpec>& head) {
  if (!head) return true;
  if (head->pooled) {
    const bool same = config_.pooled && SameForm(*config_.pooled, *head->pooled) &&
                      head->labels == config_.labels && head->problem == config_.problem;
    config_.pooled = head->pooled;
    config_.labels = head->labels;
    config_.problem = head->problem;
    keeps_layout_ = same;
    if (same) {
      warnings_.push_back(
          "the base model has a pooled head of this form and these labels: it is "
          "kept");
    } else {
      pooled_seed_ = head->seed;
    }
    return false;
  }
  config_.pooled.reset();
  const bool same = head->kind == config_.head &&
                    (head->kind != HeadKind::kClassifier ||
                     (head->labels == config_.labels && head->problem == config_.problem));
  config_.head = head->kind;
  keeps_layout_ = same;
  if (head->kind != HeadKind::kClassifier) return same;
  config_.labels = head->labels;
  config_.problem = head->problem;
  if (same) warnings_.push_back("the base model has a classifier of these labels: it is kept");
  return same;
}

torch::Tensor Model::Positions(const std::vector<int32_t>& bounds, const RunContext& context,
                               torch::Device device) const {
  const int32_t before = added_.prefix_length();
  torch::Tensor positions = at::empty({bounds.back()}, torch::kInt64);
  int64_t* out = positions.data_ptr<int64_t>();
  for (size_t s = 0; s + 1 < bounds.size(); ++s) {
    const int32_t seen = before + (context.state == nullptr ? 0 : context.state->lengths()[s]);
    for (int32_t r = bounds[s]; r < bounds[s + 1]; ++r) out[r] = seen + r - bounds[s];
  }
  return positions.to(device);
}

bool Model::BeginsWithPrompt(const RunContext& context) const {
  return added_.prompt != nullptr &&
         (context.state == nullptr || context.state->lengths().front() == 0);
}

torch::Tensor Model::WithPrompt(const torch::Tensor& rows, std::vector<int32_t>* bounds) const {
  return BeforeEach(added_.prompt->tensor.slice(0, 0, added_.virtual_tokens), rows, bounds);
}

Rows Model::WithoutPrompt(Rows rows, const RunContext& context) const {
  // The rows of a decoder never had one before them.
  if (!BeginsWithPrompt(context) || config_.encoder_decoder ||
      OneRowEach(rows.data, rows.cu_seqlens)) {
    return rows;
  }
  Rows own;
  own.cu_seqlens = {0};
  std::vector<torch::Tensor> parts;
  for (size_t s = 0; s + 1 < rows.cu_seqlens.size(); ++s) {
    const int32_t begin = rows.cu_seqlens[s] + added_.virtual_tokens, end = rows.cu_seqlens[s + 1];
    parts.push_back(at::arange(begin, end, torch::TensorOptions(torch::kInt64)));
    own.cu_seqlens.push_back(own.cu_seqlens.back() + end - begin);
  }
  own.data = GatherRows(rows.data, at::cat(parts).to(rows.data.device()));
  return own;
}

torch::Tensor Model::SelfAttention(Path path, int block, const torch::Tensor& q,
                                   const torch::Tensor& k, const torch::Tensor& v,
                                   AttentionSpec spec, SequenceState* state) const {
  const AddedToBlock* added = added_.Of(block);
  if (added == nullptr || added->prefix == nullptr) {
    if (state == nullptr) return Attention(path, q, k, v, spec);
    return CachedAttention(path, q, k, v, spec, state->lengths(), &state->block(block));
  }
  const torch::Tensor prefix =
      added->prefix->tensor.view({added_.virtual_tokens, 2, k.size(1), k.size(2)});
  const torch::Tensor keys = prefix.select(1, 0), values = prefix.select(1, 1);
  if (state == nullptr) {
    std::vector<int32_t> bounds = spec.k_bounds;
    const torch::Tensor all_values = BeforeEach(values, v, &bounds);
    return Attention(path, q, BeforeEach(keys, k, &spec.k_bounds), all_values, spec);
  }
  const torch::NoGradGuard no_grad;
  std::vector<int32_t> lengths = state->lengths();
  BlockState& kept = state->block(block);
  kept.keys.resize(lengths.size());
  kept.values.resize(lengths.size());
  for (size_t s = 0; s < lengths.size(); ++s) {
    if (lengths[s] == 0) {
      AppendRows(keys.flatten(1).to(k.scalar_type()), 0, added_.virtual_tokens, 0, &kept.keys[s]);
      AppendRows(values.flatten(1).to(v.scalar_type()), 0, added_.virtual_tokens, 0,
                 &kept.values[s]);
    }
    lengths[s] += added_.virtual_tokens;
  }
  return CachedAttention(path, q, k, v, spec, lengths, &kept);
}

void Model::TakeVirtualTokens(int32_t count) {
  added_.virtual_tokens = count;
  config_.max_positions -= count;
}

const Parameter* Model::AddPart(const std::string& name, int group, torch::Tensor tensor,
                                bool matrix) {
  groups_[static_cast<size_t>(group)].parameters.push_back(name);
  Parameter parameter;
  parameter.name = name;
  parameter.group = parameter.first_use = group;
  parameter.kind = ParameterKind::kAddedPart;
  parameter.rounds = matrix && config_.half;
  parameter.tensor = std::move(tensor);
  return parameters_.Add(std::move(parameter));
}

void Model::Dequantise() {
  parameters_.Decompress();
  config_.nf4.reset();
  config_.source.erase(kQuantisationField);
}

absl::StatusOr<std::unique_ptr<Model>> LoadModel(const std::string& directory,
                                                 const std::optional<HeadSpec>& head,
                                                 const LoadOptions& options) {
  if (head && head->kind == HeadKind::kClassifier) {
    if (head->labels.empty()) return InvalidField("labels", "a head needs a label");
    std::set<std::string> seen;
    for (const std::string& label : head->labels) {
      if (seen.insert(label).second) continue;
      return InvalidField("labels", absl::StrCat("label \"", label, "\" occurs twice"));
    }
  }
  THAW_ASSIGN_OR_RETURN(const std::string text, ReadFile(directory + "/config.json", 1 << 20));
  absl::StatusOr<ModelConfig> config = ParseModelConfig(text);
  if (!config.ok()) return Annotate(config.status(), directory);
  const Family* family = FindFamily(config->model_type);
  if (head && head->kind == HeadKind::kLanguageModel && family->language_model_class == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(directory, ": model_type \"", config->model_type, "\" is no language model"));
  }
  if (head && head->kind == HeadKind::kClassifier && family->classifier_class == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(directory, ": model_type \"", config->model_type, "\" has no classifier"));
  }
  if ((options.half || options.nf4 || config->nf4) && IsFp32Only(config->model_type)) {
    return absl::InvalidArgumentError(absl::StrCat(directory, ": model_type \"", config->model_type,
                                                   "\" computes in fp32 alone"));
  }
  config->half = options.half;
  if (options.nf4 && !config->nf4) {
    config->quantises = true;
    config->nf4.emplace();
    config->source[kQuantisationField] = QuantisationJson(*config->nf4, {});
  }
  std::optional<HeadSpec> wanted = head;
  if (wanted && wanted->kind == HeadKind::kClassifier && !wanted->pooled) {
    wanted->pooled = config->pooled;
  }
  const bool pools = wanted ? wanted->pooled.has_value() : config->pooled.has_value();
  // The family is to load no head of its own.
  if (pools) config->head = HeadKind::kNone;
  if (wanted && wanted->pooled) {
    wanted->kind = HeadKind::kNone;
    if (wanted->pooled->blocks < 0) wanted->pooled->blocks = config->num_layers;
  }
  return family->load(*std::move(config), directory, wanted);
}

namespace {

// A model's tensors as files have them; those that were changed are kept alive by `kept`.
struct TensorsToSave {
  std::vector<TensorForDelta> tensors;
  std::vector<std::string> dense;  // layers whose matrices are not in NF4
  std::vector<torch::Tensor> kept;
  bool changed = false;  // something is not as it was in the files
};

TensorsToSave TensorsOf(const Model& model) {
  TensorsToSave all;
  for (const Parameter& parameter : model.parameters().all()) {
    if (parameter.added()) continue;
    const TensorSource& source = parameter.source;
    const bool has_source = source.file != nullptr;
    TensorForDelta one;
    const std::string name = model.keeps_layout() && has_source ? source.name : parameter.name;
    if (const Nf4Matrix* matrix = Nf4Of(parameter.tensor)) {
      for (TensorToWrite& part : Nf4ToWrite(name, *matrix, &all.kept)) {
        const std::string base =
            has_source ? source.info->name + part.name.substr(name.size()) : "";
        all.tensors.push_back({std::move(part), base});
      }
      continue;
    }
    if (parameter.tensor.dim() == 2 && parameter.kind != ParameterKind::kEmbedding) {
      all.dense.push_back(name.substr(0, name.rfind('.')));
    }
    if (parameter.as_loaded()) {
      one.tensor = {name, source.info->type, source.info->shape, source.file->Data(*source.info)};
    } else {
      all.kept.push_back(parameter.tensor.detach().cpu().contiguous());
      // A table that is held rounded: readers expect one type of all that is not in NF4.
      if (torch::Tensor& own = all.kept.back(); own.scalar_type() == torch::kBFloat16) {
        own = own.to(torch::kFloat);
      }
      one.tensor = ToWrite(name, all.kept.back());
      all.changed = true;
    }
    if (has_source) one.base_name = source.info->name;  // where the bytes lie
    for (const std::string& alias : parameter.aliases) {
      all.tensors.push_back(one);
      all.tensors.back().tensor.name = alias;
    }
    all.tensors.push_back(std::move(one));
  }
  return all;
}

// What was trained is fp32, and loading must not round it.
absl::Status SaveConfig(const Model& model, const TensorsToSave& saved,
                        const std::string& directory) {
  const std::string element_type = saved.changed ? "float32" : "";
  ModelConfig config = model.config();
  if (config.nf4) {
    // By default transformers would look for more layers in 4 bits, or for fewer.
    nlohmann::json& others = config.source[kQuantisationField]["llm_int8_skip_modules"];
    others = saved.dense;
    others.push_back("lm_head");
  }
  return WriteFileAtomically(directory + "/config.json", ResultConfigJson(config, element_type));
}

}  // namespace

absl::Status SaveModel(const Model& model, const std::string& directory) {
  TensorsToSave all = TensorsOf(model);
  std::vector<TensorToWrite> tensors;
  for (TensorForDelta& one : all.tensors) tensors.push_back(std::move(one.tensor));
  THAW_RETURN_IF_ERROR(WriteSafetensors(directory + "/model.safetensors", std::move(tensors)));
  return SaveConfig(model, all, directory);
}

absl::Status SaveDelta(const Model& model, const std::string& base_directory,
                       const std::string& base_digest, const std::string& directory) {
  const TensorsToSave all = TensorsOf(model);
  THAW_RETURN_IF_ERROR(WriteDelta(directory, base_digest, base_directory, all.tensors));
  return SaveConfig(model, all, directory);
}

}  // namespace thaw
