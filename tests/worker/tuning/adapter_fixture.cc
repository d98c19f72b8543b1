#include "tests/worker/tuning/adapter_fixture.h"

#include <google/protobuf/text_format.h>

#include <cstdlib>

namespace thaw {

std::string AdapterDirectory(const std::string& model, const std::string& method) {
  return std::string(std::getenv("THAW_TEST_DATA")) + "/adapters/" + model + "/" + method;
}

v1::AddedPart PartOf(const std::string& text) {
  v1::AddedPart part;
  TORCH_CHECK(google::protobuf::TextFormat::ParseFromString(text, &part), text);
  return part;
}

torch::Tensor RecordedLogits(const std::string& directory, const std::string& name,
                             const FixtureBatch& batch) {
  const auto file = SafetensorsFile::Open(directory + "/expected.safetensors").value();
  const TensorInfo* info = file->Find(name);
  // Kept only where the two differ by more than rounding.
  if (info == nullptr) info = file->Find("logits");
  const torch::Tensor logits = ViewTensor(file, *info).clone();
  if (logits.dim() == 2) return logits;
  const torch::Tensor rows = logits.reshape({-1, logits.size(2)});
  return batch.packed.target_ids.defined() ? rows : rows.index_select(0, batch.padded_index);
}

std::vector<const Parameter*> TrainPart(Model& model) {
  std::vector<const Parameter*> trained;
  for (const Parameter& parameter : model.parameters().all()) {
    if (!parameter.added() && !parameter.beside_added) continue;
    torch::Tensor leaf = parameter.tensor.detach().clone().set_requires_grad(true);
    TORCH_CHECK(model.parameters().SetTensor(parameter.name, leaf).ok());
    trained.push_back(&parameter);
  }
  return trained;
}

}  // namespace thaw
