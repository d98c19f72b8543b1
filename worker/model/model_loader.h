// What an architecture's loading consists of: groups in order, tensors into groups.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/model/model.h"
#include "worker/model/weights.h"

namespace thaw {

// weight and bias of "<scope>.weight" and "<scope>.bias", as they are at this moment.
struct WeightPair {
  const Parameter* weight = nullptr;
  const Parameter* bias = nullptr;      // null where the layer has none
  const LinearLayer* linear = nullptr;  // of a linear layer, which parts may be added to

  const torch::Tensor& w() const { return weight->tensor; }
  // The bias that goes with Unbiased: where a part scales what the layer gives, it is scaled too.
  torch::Tensor b() const;
  // Of a linear layer, with what has been added to it.
  WeightAndBias Both(const RunContext& context) const;
  // For who adds the bias later.
  WeightAndBias Unbiased(const RunContext& context) const;
};

// Puts tensors of a directory into a model under construction. The first error is kept and
// everything after it gives null pointers: a family adds all that it has, then asks Finish once.
class ModelLoader {
 public:
  // `weights` must outlive the loader.
  ModelLoader(Weights* weights, Model* model) : weights_(weights), model_(model) {}

  // What follows is of this group and of no kind yet.
  void StartGroup(std::string name);
  // What follows, norms aside, is of this kind; until another kind or group is started.
  void StartKind(ParameterKind kind) { kind_ = kind; }
  const Parameter* Tensor(const std::string& name, const std::vector<int64_t>& shape);
  // A matrix [out, in] (or [in, out]) with a bias [out].
  WeightPair Linear(const std::string& scope, int64_t out, int64_t in, bool bias = true);
  WeightPair InputMajorLinear(const std::string& scope, int64_t in, int64_t out);
  // weight [width] and, with `bias`, bias [width].
  WeightPair Norm(const std::string& scope, int64_t width, bool bias = true);
  // Drawn anew: ~ N(0, initializer_range) by (seed, stream), biases 0.
  WeightPair FreshLinear(const std::string& scope, int64_t out, int64_t in, uint64_t seed,
                         uint64_t stream, bool bias = true);
  // Drawn anew: weight [width] of ones, bias [width] of zeros.
  WeightPair FreshNorm(const std::string& scope, int64_t width);
  // "<scope>.weight" of a linear layer of the family's own making.
  WeightPair AsLinear(const std::string& scope, WeightPair pair, bool input_major = false);
  // A tensor of the family's own making.
  const Parameter* Fresh(const std::string& name, torch::Tensor tensor);
  // Marks what was just added as a bias, and gives it back.
  const Parameter* AsBias(const Parameter* parameter);

  // Weight decay leaves the parameter alone, though it is a table. Null is given back as it came.
  const Parameter* WithoutDecay(const Parameter* parameter);

  // What a model learns without a gradient, such as a batch norm's running mean: part of the model
  // and its files, but of nothing that can be selected for training.
  const Parameter* Buffer(const std::string& name, const std::vector<int64_t>& shape,
                          torch::ScalarType type);
  const Parameter* FreshBuffer(const std::string& name, torch::Tensor tensor);

  // Files hold a copy of the parameter under this canonical name too, and saving writes it.
  void Alias(const Parameter* parameter, const std::string& name);

  // The output layer of a language model that may be tied to the embeddings `word`, which must have
  // been loaded: by the truth of the files. `name` that is there and differs from `word` stands for
  // itself; one that is missing or equal is `word`, which then belongs to the present group (the
  // head), though the embeddings read it first.
  const Parameter* TiedOutput(const std::string& name, const Parameter* word);

  // The same for a decoder. Where config.json does not tie the layer and the files have none, it is
  // `word` with a warning, and saving writes it under its own name too: what loads the result by
  // its config.json looks for it there.
  const Parameter* OutputLayer(const std::string& name, const Parameter* word);

  // A second copy of `parameter` that the files may hold under `name`, and that is kept there;
  // refused where it differs.
  void Copy(const std::string& name, const Parameter* parameter);

  // The last step. Tensors that nobody took are refused, but for those whose canonical names begin
  // with one of `other_heads` (a warning tells of them) or end with one of `buffers` (values that
  // old files hold and nobody needs).
  absl::Status Finish(const std::vector<std::string>& other_heads,
                      const std::vector<std::string>& buffers);

  bool Has(const std::string& name) const { return weights_->Has(name); }
  // OK so far.
  bool ok() const { return status_.ok(); }
  void Warn(std::string warning) { model_->warnings_.push_back(std::move(warning)); }

 private:
  // The tensor as Tensor adds it, but with `stored` of its file's type, as far as that may be.
  const Parameter* Take(const std::string& name, const std::vector<int64_t>& shape, bool stored);
  // The present group's linear layers multiply rows that are bf16. A classifier's few are fp32.
  bool rounds() const;
  const Parameter* Matrix(const std::string& name, const std::vector<int64_t>& shape) {
    return Take(name, shape, rounds());
  }
  int group() const { return static_cast<int>(model_->groups_.size()) - 1; }
  // Takes what never runs below a pooled head out of the groups, then adds its tensors.
  void EndInPooledHead();
  // Layers that never run are gone by now.
  void MarkMatrices();
  void AddPooledLayer(int index, int64_t out, int64_t in, const Parameter* pair[2]);

  Weights* const weights_;
  Model* const model_;
  ParameterKind kind_ = ParameterKind::kOther;
  absl::Status status_;
};

}  // namespace thaw
