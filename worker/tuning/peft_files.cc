#include "worker/tuning/peft_files.h"

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "common/safetensors/safetensors.h"
#include "worker/model/tensor_view.h"
#include "worker/tuning/added_part.h"
#include "worker/tuning/module_names.h"
#include "worker/tuning/own_adapter_config.h"
#include "worker/tuning/peft_config.h"
#include "worker/tuning/target_modules.h"
#include "worker/tuning/virtual_tokens.h"

namespace thaw {
namespace {

constexpr char kTensorsFile[] = "adapter_model.safetensors";
// What the names of the base's tensors stand behind, where layers are changed, and where rows or
// keys go before them.
constexpr char kLayersPrefix[] = "base_model.model.";
constexpr char kModelPrefix[] = "base_model.";

bool IsStored(const Parameter& parameter) { return parameter.added() || parameter.beside_added; }

// The parameter that a tensor of the file stands for; nullptr if there is none.
const Parameter* PlaceOf(const std::string& tensor, const Parameters& parameters) {
  std::string name;
  for (const char* prefix : {"", kModelPrefix, kLayersPrefix}) {
    absl::string_view stem = tensor;
    if (!absl::ConsumePrefix(&stem, prefix)) continue;
    // PEFT's wrappers around what they change or store.
    name = absl::StrReplaceAll(stem, {{".base_layer.", "."}, {".modules_to_save.", "."}});
    if (const Parameter* parameter = parameters.Find(name)) return parameter;
  }
  // An adapter of the model without a head: its names lack the base's prefix.
  const Parameter* found = nullptr;
  for (const Parameter& parameter : parameters.all()) {
    if (!NamesModule(parameter.name, name)) continue;
    if (found != nullptr) return nullptr;
    found = &parameter;
  }
  return found;
}

// Without the names that no module of the model has: PEFT lists those of all of its models.
void DropUnknownModules(const Model& model,
                        google::protobuf::RepeatedPtrField<std::string>* names) {
  const auto unknown = [&](const std::string& name) {
    const std::string inside = absl::StrCat(".", name, ".");
    for (const Parameter& parameter : model.parameters().all()) {
      if (absl::StrContains(absl::StrCat(".", parameter.name), inside)) return false;
    }
    return true;
  };
  names->erase(std::remove_if(names->begin(), names->end(), unknown), names->end());
}

ModuleNames* ModulesToSave(v1::AddedPart* part) {
  switch (part->kind_case()) {
    case v1::AddedPart::kLora:
      return part->mutable_lora()->mutable_modules_to_save();
    case v1::AddedPart::kIa3:
      return part->mutable_ia3()->mutable_modules_to_save();
    case v1::AddedPart::kPromptTuning:
      return part->mutable_prompt_tuning()->mutable_modules_to_save();
    case v1::AddedPart::kPrefixTuning:
      return part->mutable_prefix_tuning()->mutable_modules_to_save();
    default:
      return part->mutable_bottleneck()->mutable_modules_to_save();
  }
}

// The tensors of a prefix, by number.
std::vector<const Parameter*> PrefixOf(const Model& model) {
  std::vector<const Parameter*> prefix;
  for (;;) {
    const Parameter* next = model.parameters().Find(absl::StrCat(kPrefixName, prefix.size()));
    if (next == nullptr) return prefix;
    prefix.push_back(next);
  }
}

// All blocks' keys and values side by side, as PEFT has them.
absl::Status SetPrefix(const torch::Tensor& all, const std::vector<const Parameter*>& prefix,
                       Parameters* parameters) {
  const int64_t width = prefix.front()->tensor.size(1);
  if (all.dim() != 2 || all.size(1) != width * static_cast<int64_t>(prefix.size())) {
    return absl::InvalidArgumentError(absl::StrCat("\"", kPromptName, "\" has not the ",
                                                   prefix.size(), " blocks' keys and values of ",
                                                   width / 2, " numbers each that the model has"));
  }
  const std::vector<torch::Tensor> parts = all.split(width, 1);
  for (size_t i = 0; i < prefix.size(); ++i) {
    THAW_RETURN_IF_ERROR(parameters->SetTensor(prefix[i]->name, parts[i].contiguous()));
  }
  return absl::OkStatus();
}

absl::Status SetTensors(const SafetensorsFile& file,
                        const std::shared_ptr<const SafetensorsFile>& keep, Model* model) {
  std::set<std::string> set;
  const std::vector<const Parameter*> prefix = PrefixOf(*model);
  for (const TensorInfo& info : file.tensors()) {
    if (info.name == kPromptName && !prefix.empty()) {
      const absl::Status status = SetPrefix(ViewTensor(keep, info).to(torch::kFloat32).clone(),
                                            prefix, &model->parameters());
      if (!status.ok()) return Annotate(status, file.path());
      for (const Parameter* parameter : prefix) set.insert(parameter->name);
      continue;
    }
    const Parameter* place = PlaceOf(info.name, model->parameters());
    if (place == nullptr || !IsStored(*place)) {
      return absl::InvalidArgumentError(absl::StrCat(
          file.path(), ": tensor \"", info.name, "\" has no place: ",
          place == nullptr ? "the model has no such module, or " : "the module is there, but ",
          kPeftConfigFile, " does not name it"));
    }
    if (!set.insert(place->name).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.path(), ": two tensors stand for \"", place->name, "\""));
    }
    const absl::Status status = model->parameters().SetTensor(
        place->name, ViewTensor(keep, info).to(torch::kFloat32).clone());
    if (!status.ok()) return Annotate(status, file.path());
  }
  for (const Parameter& parameter : model->parameters().all()) {
    if (!IsStored(parameter) || set.count(parameter.name) > 0) continue;
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": the tensor of \"",
                                                   parameter.name, "\" is missing, which ",
                                                   kPeftConfigFile, " asks for"));
  }
  return absl::OkStatus();
}

std::string TaskType(const Model& model) {
  switch (model.config().head) {
    case HeadKind::kClassifier:
      return "SEQ_CLS";
    case HeadKind::kLanguageModel:
      return model.config().encoder_decoder ? "SEQ_2_SEQ_LM"
             : model.config().causal        ? "CAUSAL_LM"
                                            : "";
    case HeadKind::kNone:
      break;
  }
  return "FEATURE_EXTRACTION";
}

// The names of `members`, cut to their ends where no other layer's name has one of them.
template <typename IsMember>
std::vector<std::string> CutNames(const Model& model, const IsMember& is_member) {
  std::set<std::string> ends, names;
  const auto end_of = [](const LinearLayer& linear) {
    return linear.name.substr(linear.name.rfind('.') + 1);
  };
  for (const LinearLayer& linear : model.linears()) {
    if (!is_member(linear)) continue;
    names.insert(linear.name);
    ends.insert(end_of(linear));
  }
  for (const LinearLayer& linear : model.linears()) {
    if (!is_member(linear) && ends.count(end_of(linear)) > 0) return {names.begin(), names.end()};
  }
  return {ends.begin(), ends.end()};
}

// The module that PEFT stores a tensor of the base with.
std::string SavedModule(const std::string& parameter) {
  if (absl::StartsWith(parameter, "classifier.")) return "classifier";
  return parameter.substr(0, parameter.rfind('.'));
}

std::string NameInFile(const v1::AddedPart& part, bool added, const std::string& name) {
  if (part.has_bottleneck()) return name;
  if (part.has_lora() || part.has_ia3()) return kLayersPrefix + name;
  return added ? name : kModelPrefix + name;
}

void DescribeVirtualTokens(const Model& model, PeftTarget* target) {
  const Model::KeyShape shape = model.PrefixShape();
  target->token_dim =
      model.added().prompt != nullptr ? model.hidden_size() : shape.heads * shape.head_dim;
  // PEFT wants a number for prompts too, and does not find DistilBERT's by itself.
  target->heads = std::max<int64_t>(shape.heads, 1);
  target->layers = model.blocks() - model.first_decoder_block();
  target->stacks = model.config().encoder_decoder ? 2 : 1;
}

bool IsTargetsBias(const Model& model, const Parameter& parameter) {
  return std::any_of(
      model.linears().begin(), model.linears().end(),
      [&](const LinearLayer& linear) { return linear.added && linear.bias == &parameter; });
}

}  // namespace

bool IsAdapter(const std::string& directory) { return Exists(directory + "/" + kPeftConfigFile); }

absl::StatusOr<v1::AddedPart> ReadAdapterPart(const std::string& directory) {
  THAW_ASSIGN_OR_RETURN(const std::string text,
                        ReadFile(directory + "/" + kPeftConfigFile, 1 << 20));
  absl::StatusOr<v1::AddedPart> part = ParsePeftConfig(text);
  return part.ok() ? part : Annotate(part.status(), directory);
}

absl::StatusOr<v1::AddedPart> LoadAdapter(const std::string& directory, Model* model) {
  THAW_ASSIGN_OR_RETURN(v1::AddedPart part, ReadAdapterPart(directory));
  DropUnknownModules(*model, ModulesToSave(&part));
  const std::string path = directory + "/" + kTensorsFile;
  if (!Exists(path) && Exists(directory + "/adapter_model.bin")) {
    return absl::InvalidArgumentError(
        absl::StrCat(directory,
                     ": adapter_model.bin is a pickle, which is never opened: save the "
                     "adapter as adapter_model.safetensors"));
  }
  THAW_ASSIGN_OR_RETURN(const auto file, SafetensorsFile::Open(path));
  const absl::Status added = AddPart(part, /*seed=*/0, model);
  if (!added.ok()) return Annotate(added, directory);
  THAW_RETURN_IF_ERROR(SetTensors(*file, file, model));
  return part;
}

absl::Status SaveAdapter(const Model& model, const v1::AddedPart& part,
                         const std::string& base_model, const std::string& directory) {
  PeftTarget target;
  target.base_model = base_model;
  target.task_type = TaskType(model);
  target.modules =
      CutNames(model, [](const LinearLayer& linear) { return linear.added.has_value(); });
  target.feedforward = CutNames(model, [](const LinearLayer& linear) {
    return linear.added && linear.added->input_scale != nullptr;
  });
  DescribeVirtualTokens(model, &target);
  const std::vector<const Parameter*> prefix = PrefixOf(model);
  std::set<std::string> saved;
  std::vector<torch::Tensor> kept;
  std::vector<TensorToWrite> tensors;
  for (const LinearLayer& linear : model.linears()) {
    target.fan_in_fan_out |= linear.added && linear.input_major;
  }
  for (const Parameter& parameter : model.parameters().all()) {
    const bool classifiers = model.config().head == HeadKind::kClassifier &&
                             !parameter.compressed &&
                             (absl::StartsWith(parameter.name, "classifier.") ||
                              absl::StartsWith(parameter.name, "score.") ||
                              absl::StartsWith(parameter.name, kPooledHeadScope));
    if (!IsStored(parameter) && !parameter.kept_beside && !classifiers) continue;
    std::string name = parameter.name;
    if (!parameter.added()) {
      const bool biases =
          part.lora().bias() == v1::Lora::ALL_BIASES || part.lora().bias() == v1::Lora::TARGETS;
      const bool by_bias =
          !classifiers && !parameter.kept_beside && biases && absl::StrContains(name, "bias");
      if (!by_bias) saved.insert(SavedModule(name));
      if (IsTargetsBias(model, parameter)) {
        name.insert(name.rfind('.'), ".base_layer");
      }
    }
    if (parameter.added() && !prefix.empty()) continue;
    kept.push_back(parameter.master().detach().cpu().contiguous());
    tensors.push_back(ToWrite(NameInFile(part, parameter.added(), name), kept.back()));
  }
  if (!prefix.empty()) {
    std::vector<torch::Tensor> parts;
    for (const Parameter* one : prefix) parts.push_back(one->tensor.detach().cpu());
    kept.push_back(at::cat(parts, 1));
    tensors.push_back(ToWrite(kPromptName, kept.back()));
  }
  target.saved.assign(saved.begin(), saved.end());
  THAW_RETURN_IF_ERROR(WriteSafetensors(directory + "/" + kTensorsFile, std::move(tensors)));
  return WriteFileAtomically(directory + "/" + kPeftConfigFile,
                             part.has_bottleneck()
                                 ? OwnAdapterConfigJson(part.bottleneck(), base_model, target.saved)
                                 : PeftConfigJson(part, target));
}

}  // namespace thaw
