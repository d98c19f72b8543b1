#include "tests/worker/model/model_fixture.h"

#include <cmath>
#include <cstdlib>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "gtest/gtest.h"

namespace thaw {

std::string FixtureDirectory(const std::string& name) {
  return std::string(std::getenv("THAW_TEST_DATA")) + "/models/" + name;
}

std::string FixtureTestName(std::string name) {
  for (char& c : name) c = absl::ascii_isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
}

ModelFixture::ModelFixture(const std::string& name, const std::optional<HeadSpec>& head, bool half)
    : model(LoadModel(FixtureDirectory(name), head, half).value()),
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
  batch.padded_index = mask.reshape({-1}).nonzero().squeeze(1);
  const auto real_rows = [&](const torch::Tensor& padded) {
    return padded.defined() ? padded.reshape({-1}).index_select(0, batch.padded_index) : padded;
  };
  batch.packed.token_ids = real_rows(input("input_ids"));
  batch.packed.token_type_ids = real_rows(input("token_type_ids"));
  batch.packed.cu_seqlens = {0};
  for (int64_t s = 0; s < mask.size(0); ++s) {
    const int32_t length = static_cast<int32_t>(mask[s].sum().item<int64_t>());
    batch.packed.cu_seqlens.push_back(batch.packed.cu_seqlens.back() + length);
  }
  batch.labels = input("labels");
  const std::string kind = json["labels"];
  if (kind == "clm") {
    const torch::Tensor none = at::full({mask.size(0), 1}, -100, torch::kInt64);
    batch.labels = real_rows(at::cat({batch.labels.slice(1, 1), none}, 1));
  } else if (kind == "mlm") {
    batch.labels = real_rows(batch.labels);
  } else if (kind == "seq2seq") {
    // transformers masks nothing of the target: every sequence has its whole width.
    const auto pad = model->config().source["pad_token_id"].get<int64_t>();
    const auto start = model->config().source["decoder_start_token_id"].get<int64_t>();
    const torch::Tensor shifted = at::cat(
        {at::full({mask.size(0), 1}, start, torch::kInt64), batch.labels.slice(1, 0, -1)}, 1);
    batch.packed.target_ids = at::where(shifted == -100, pad, shifted).reshape({-1});
    for (int64_t s = 0; s <= mask.size(0); ++s) {
      batch.packed.target_bounds.push_back(static_cast<int32_t>(s * shifted.size(1)));
    }
    batch.labels = batch.labels.reshape({-1});
  }
  batch.loss_units = batch.labels.is_floating_point() ? static_cast<double>(batch.labels.numel())
                                                      : (batch.labels != -100).sum().item<double>();
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

std::string NewTestDirectory() {
  std::string directory = ::testing::TempDir() + "thaw_model_XXXXXX";
  return mkdtemp(directory.data());
}

std::string ModelVariant::Make() const {
  const std::string directory = NewTestDirectory(), source = FixtureDirectory(fixture);
  auto config = ReadJsonFile(source + "/config.json").value();
  config.update(config_changes);
  EXPECT_TRUE(WriteFileAtomically(directory + "/config.json", config.dump()).ok());
  const auto file = SafetensorsFile::Open(source + "/model.safetensors").value();
  std::map<std::string, torch::Tensor> tensors = added;
  for (const TensorInfo& info : file->tensors()) {
    const std::string name = rename(info.name);
    if (!name.empty()) tensors.emplace(name, ViewTensor(file, info));
  }
  std::vector<std::vector<TensorToWrite>> parts(static_cast<size_t>(shards));
  nlohmann::json index = {{"metadata", {{"total_size", 0}}},
                          {"weight_map", nlohmann::json::object()}};
  const auto file_name = [&](size_t shard) {
    return shards == 1 ? "model.safetensors"
                       : absl::StrFormat("model-%05d-of-%05d.safetensors", shard + 1, shards);
  };
  size_t next = 0;
  for (auto& [name, tensor] : tensors) {
    tensor = tensor.to(type).contiguous();
    const size_t shard = next++ % parts.size();
    parts[shard].push_back(ToWrite(name, tensor));
    index["weight_map"][name] = file_name(shard);
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    EXPECT_TRUE(WriteSafetensors(directory + "/" + file_name(i), std::move(parts[i])).ok());
  }
  if (shards > 1) {
    EXPECT_TRUE(
        WriteFileAtomically(directory + "/model.safetensors.index.json", index.dump()).ok());
  }
  return directory;
}

Rows RowsOf(Model& model, const Packed& batch, const RunContext& context) {
  model.parameters().RoundMatrices();
  Rows rows = model.Embed(batch, context);
  for (int i = 0; i < model.blocks(); ++i) rows = model.Block(i, rows, context);
  return model.WithoutPrompt(rows, context);
}

torch::Tensor LogitsOf(Model& model, const Packed& batch, const RunContext& context) {
  const Rows rows = RowsOf(model, batch, context);
  if (model.config().head != HeadKind::kLanguageModel) return model.Head(rows, context);
  const OutputLayer output = model.output_layer();
  const torch::Tensor states = model.OutputStates(rows, torch::Tensor(), context);
  const bool kernels = states.is_cpu() && !context.reference;
  return Linear(kernels ? Path::kKernels : Path::kReference, states,
                {output.weight, output.bias, false, output.half});
}

torch::Tensor MeanLoss(Model& model, const FixtureBatch& batch, const RunContext& context) {
  if (model.config().head == HeadKind::kLanguageModel) {
    const Rows rows = RowsOf(model, batch.packed, context);
    const torch::Tensor counting = (batch.labels != -100).nonzero().squeeze(1);
    const OutputLayer output = model.output_layer();
    return LinearCrossEntropySum(context.reference ? Path::kReference : Path::kKernels,
                                 model.OutputStates(rows, counting, context), output.weight,
                                 output.bias, batch.labels.index_select(0, counting), output.half) /
           batch.loss_units;
  }
  const torch::Tensor logits = LogitsOf(model, batch.packed, context);
  switch (model.config().problem) {
    case ProblemType::kRegression:
      return SquaredErrorSum(logits.squeeze(1), batch.labels) / batch.loss_units;
    case ProblemType::kMultiLabel:
      return BinaryCrossEntropySum(logits, batch.labels) / batch.loss_units;
    case ProblemType::kSingleLabel:
      break;
  }
  return CrossEntropySum(logits, batch.labels) / batch.loss_units;
}

void MakeTrainable(Model& model) {
  for (const Parameter& parameter : model.parameters().all()) {
    if (parameter.buffer) continue;
    torch::Tensor leaf = parameter.tensor.detach().clone().set_requires_grad(true);
    TORCH_CHECK(model.parameters().SetTensor(parameter.name, leaf).ok());
  }
}

void StepAdamW(const torch::Tensor& p, TraceMoments& moments, int t, double rate, double decay,
               double scale) {
  const torch::Tensor g = p.grad() * scale;
  if (!moments.first.defined()) {
    moments.first = at::zeros_like(p);
    moments.second = at::zeros_like(p);
  }
  moments.first = 0.9 * moments.first + 0.1 * g;
  moments.second = 0.999 * moments.second + 0.001 * g * g;
  const torch::Tensor denominator = (moments.second / (1 - std::pow(0.999, t))).sqrt() + 1e-8;
  p.mul_(1 - rate * decay);
  p.sub_(rate / (1 - std::pow(0.9, t)) * moments.first / denominator);
}

double MaxDifference(const torch::Tensor& a, const torch::Tensor& b) {
  const double difference = (a - b).abs().max().item<double>();
  return difference == difference ? difference : std::numeric_limits<double>::infinity();
}

}  // namespace thaw
