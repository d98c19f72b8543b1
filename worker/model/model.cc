#include "worker/model/model.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "worker/model/bert.h"
#include "worker/model/tensor_view.h"

namespace thaw {
namespace {

struct Architecture {
  absl::string_view model_type;
  absl::StatusOr<std::unique_ptr<Model>> (*load)(ModelConfig, const std::string& directory,
                                                 const std::optional<HeadSpec>&);
};

constexpr Architecture kArchitectures[] = {{"bert", LoadBert}};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> LoadModel(const std::string& directory,
                                                 const std::optional<HeadSpec>& head) {
  if (head) {
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
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.model_type == config->model_type) {
      return architecture.load(*std::move(config), directory, head);
    }
  }
  return absl::InternalError(absl::StrCat("no architecture for ", config->model_type));
}

absl::Status SaveModel(const Model& model, const std::string& directory) {
  std::vector<torch::Tensor> kept;
  std::vector<TensorToWrite> tensors;
  for (const Parameter& parameter : model.parameters().all()) {
    kept.push_back(parameter.tensor.detach().cpu().contiguous());
    tensors.push_back(ToWrite(parameter.name, kept.back()));
  }
  THAW_RETURN_IF_ERROR(WriteSafetensors(directory + "/model.safetensors", std::move(tensors)));
  return WriteFileAtomically(directory + "/config.json", ClassifierConfigJson(model.config()));
}

}  // namespace thaw
