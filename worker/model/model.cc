#include "worker/model/model.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "worker/model/family.h"
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

bool Model::ChooseHead(const std::optional<HeadSpec>& head) {
  if (!head) return true;
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
                               torch::Device device) {
  torch::Tensor positions = at::empty({bounds.back()}, torch::kInt64);
  int64_t* out = positions.data_ptr<int64_t>();
  for (size_t s = 0; s + 1 < bounds.size(); ++s) {
    const int32_t seen = context.state == nullptr ? 0 : context.state->lengths()[s];
    for (int32_t r = bounds[s]; r < bounds[s + 1]; ++r) out[r] = seen + r - bounds[s];
  }
  return positions.to(device);
}

const Parameter* Model::AddPart(const std::string& name, int group, torch::Tensor tensor) {
  groups_[static_cast<size_t>(group)].parameters.push_back(name);
  Parameter parameter;
  parameter.name = name;
  parameter.group = parameter.first_use = group;
  parameter.added = true;
  parameter.tensor = std::move(tensor);
  return parameters_.Add(std::move(parameter));
}

absl::StatusOr<std::unique_ptr<Model>> LoadModel(const std::string& directory,
                                                 const std::optional<HeadSpec>& head) {
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
  return family->load(*std::move(config), directory, head);
}

absl::Status SaveModel(const Model& model, const std::string& directory) {
  std::vector<torch::Tensor> kept;
  std::vector<TensorToWrite> tensors;
  bool changed = false;  // something is not as it was in the files
  for (const Parameter& parameter : model.parameters().all()) {
    if (parameter.added) continue;
    const std::string name = model.keeps_layout() && parameter.source.file != nullptr
                                 ? parameter.source.info->name
                                 : parameter.name;
    TensorToWrite tensor;
    if (parameter.as_loaded()) {
      const TensorInfo& info = *parameter.source.info;
      tensor = {name, info.type, info.shape, parameter.source.file->Data(info)};
    } else {
      kept.push_back(parameter.tensor.detach().cpu().contiguous());
      tensor = ToWrite(name, kept.back());
      changed = true;
    }
    for (const std::string& alias : parameter.aliases) {
      tensors.push_back(tensor);
      tensors.back().name = alias;
    }
    tensors.push_back(std::move(tensor));
  }
  THAW_RETURN_IF_ERROR(WriteSafetensors(directory + "/model.safetensors", std::move(tensors)));
  // What was trained is fp32, and loading must not round it.
  return WriteFileAtomically(directory + "/config.json",
                             ResultConfigJson(model.config(), changed ? "float32" : ""));
}

}  // namespace thaw
