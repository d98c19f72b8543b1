#include "tests/worker/model/model_fixture.h"

#include <cstdlib>
#include <limits>

#include "common/base/json.h"

namespace thaw {

std::string FixtureDirectory(const std::string& name) {
  return std::string(std::getenv("THAW_TEST_DATA")) + "/models/" + name;
}

ModelFixture::ModelFixture(const std::string& name, const std::optional<HeadSpec>& head)
    : model(LoadModel(FixtureDirectory(name), head).value()),
      json(ReadJsonFile(FixtureDirectory(name) + "/expected.json").value()),
      inputs_(SafetensorsFile::Open(FixtureDirectory(name) + "/inputs.safetensors").value()),
      expected_(SafetensorsFile::Open(FixtureDirectory(name) + "/expected.safetensors").value()) {}

FixtureBatch ModelFixture::Batch(int index) const {
  const auto input = [&](const std::string& name) {
    const TensorInfo* info = inputs_->Find("batch" + std::to_string(index) + "." + name);
    return info == nullptr ? torch::Tensor() : ViewTensor(inputs_, *info).clone();
  };
  FixtureBatch batch;
  const torch::Tensor mask = input("attention_mask");
  batch.labels = input("labels");
  batch.padded_index = mask.reshape({-1}).nonzero().squeeze(1);
  batch.packed.token_ids = input("input_ids").reshape({-1}).index_select(0, batch.padded_index);
  batch.packed.token_type_ids =
      input("token_type_ids").reshape({-1}).index_select(0, batch.padded_index);
  batch.packed.cu_seqlens = {0};
  for (int64_t s = 0; s < mask.size(0); ++s) {
    const int32_t length = static_cast<int32_t>(mask[s].sum().item<int64_t>());
    batch.packed.cu_seqlens.push_back(batch.packed.cu_seqlens.back() + length);
  }
  return batch;
}

torch::Tensor ModelFixture::Expected(const std::string& name) const {
  const TensorInfo* info = expected_->Find(name);
  TORCH_CHECK(info != nullptr, name, " is not in expected.safetensors");
  return ViewTensor(expected_, *info);
}

torch::Tensor ModelFixture::ExpectedRows(const std::string& name, const FixtureBatch& batch) const {
  const torch::Tensor padded = Expected(name);
  return padded.reshape({-1, padded.size(2)}).index_select(0, batch.padded_index);
}

torch::Tensor LogitsOf(Model& model, const Packed& batch, const RunContext& context) {
  Rows rows = model.Embed(batch, context);
  for (int i = 0; i < model.blocks(); ++i) rows = model.Block(i, rows, context);
  return model.Head(rows, context);
}

void MakeTrainable(Model& model) {
  for (const Parameter& parameter : model.parameters().all()) {
    torch::Tensor leaf = parameter.tensor.clone().set_requires_grad(true);
    TORCH_CHECK(model.parameters().SetTensor(parameter.name, leaf).ok());
  }
}

double MaxDifference(const torch::Tensor& a, const torch::Tensor& b) {
  const double difference = (a - b).abs().max().item<double>();
  return difference == difference ? difference : std::numeric_limits<double>::infinity();
}

}  // namespace thaw
