// Models recorded from transformers (tests/data/models): inputs, expected activations, losses,
// gradient norms and a training trace. README.md there says what is in the files.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "worker/model/model.h"
#include "worker/model/tensor_view.h"

namespace thaw {

// $THAW_TEST_DATA/models/<name>.
std::string FixtureDirectory(const std::string& name);

// As the name of a parameterised test: letters, digits and underscores.
std::string FixtureTestName(std::string name);

struct FixtureBatch {
  Packed packed;
  // Classifiers: as recorded. Language models: int64 by packed row (of the target, for sequence to
  // sequence), -100 where none counts; of causal ones the label is the token that comes next.
  torch::Tensor labels;
  double loss_units = 0;  // labels that count
  // Where row r of the packed batch lies among the padded [sequences * length] positions.
  torch::Tensor padded_index;
};

class ModelFixture {
 public:
  // Fails the test (by exception) if a file is not what it should be. `half` as for LoadModel.
  ModelFixture(const std::string& name, const std::optional<HeadSpec>& head, bool half = false);

  FixtureBatch Batch(int index) const;
  torch::Tensor Expected(const std::string& name) const;
  // The padded tensor's rows that are real tokens.
  torch::Tensor ExpectedRows(const std::string& name, const FixtureBatch& batch) const;

  std::unique_ptr<Model> model;
  nlohmann::json json;  // expected.json

 private:
  std::shared_ptr<const SafetensorsFile> inputs_, expected_;
};

// A new directory for this test alone.
std::string NewTestDirectory();

// A fixture's directory with tensors renamed, left out or added, all of one element type, and
// fields of the configuration changed.
struct ModelVariant {
  std::string fixture = "bert-cls";
  // An empty name leaves the tensor out.
  std::function<std::string(std::string)> rename = [](std::string name) { return name; };
  nlohmann::json config_changes = nlohmann::json::object();
  torch::ScalarType type = torch::kFloat32;
  std::map<std::string, torch::Tensor> added;
  int shards = 1;

  // Writes it and gives its path.
  std::string Make() const;
};

// Each of these rounds matrices that need it first.
// The batch's own rows of those that leave the last block.
Rows RowsOf(Model& model, const Packed& batch, const RunContext& context = {});

// Logits of the whole stack: [sequences, labels], or of a language model [rows, vocabulary].
torch::Tensor LogitsOf(Model& model, const Packed& batch, const RunContext& context = {});

// As transformers computes it: the mean over the loss units, by the model's head and problem.
torch::Tensor MeanLoss(Model& model, const FixtureBatch& batch, const RunContext& context);

// Every parameter becomes a leaf of its own memory that requires grad.
void MakeTrainable(Model& model);

// One step of torch.optim.AdamW on one tensor, in its own words: step `t` from 1, the gradient
// times `scale`.
struct TraceMoments {
  torch::Tensor first, second;
};
void StepAdamW(const torch::Tensor& p, TraceMoments& moments, int t, double rate, double decay,
               double scale);

// Largest absolute difference; NaN counts as infinite.
double MaxDifference(const torch::Tensor& a, const torch::Tensor& b);

}  // namespace thaw
