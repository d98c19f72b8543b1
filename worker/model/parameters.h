// The named tensors of one model. Names are those of the checkpoint (Hugging Face), in their
// canonical spelling: what freezing, optimizer, checkpoints and results all speak of.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/safetensors/safetensors.h"
#include "torch/types.h"

namespace thaw {

// Where a tensor came from; `file` is null for one that was drawn anew.
struct TensorSource {
  std::shared_ptr<const SafetensorsFile> file;
  const TensorInfo* info = nullptr;  // its element type there
  std::string name;                  // as the directory's files have it
  torch::Tensor loaded;              // what was made of it: fp32, or see Parameter::tensor
};

// What a parameter is in its model.
enum class ParameterKind {
  kOther,        // of the head, for the most part
  kNorm,         // weight or bias of a norm
  kEmbedding,    // a table with a row for each token, position or token type
  kAttention,    // a projection of attention with its bias, or a table of relative positions
  kFeedForward,  // of a block's feed-forward layers, of AWD-LSTM's recurrent ones
  kAddedPart,    // not of the base model: what Training.added_part trains
};

struct Parameter {
  std::string name;
  ParameterKind kind = ParameterKind::kOther;
  bool bias = false;  // of a linear layer or a norm
  int group = 0;      // index into Model::groups(): with what it freezes
  int first_use =
      0;  // the lowest group that reads it: a tied output layer is read by the embeddings
  bool beside_added = false;  // the base's own, but trained together with the added part
  bool kept_beside = false;   // trained by some phase, so that an adapter must hold it too
  bool decays = true;         // weight decay acts on it, unless it is a bias or a norm
  bool buffer = false;        // learnt without a gradient: a batch norm's running mean
  // A matrix of a model that computes in bf16: rows are multiplied by its `half`.
  bool rounds = false;
  // What layers read, each time anew. fp32, but one that rounds and was never replaced may be of
  // its file's type.
  torch::Tensor tensor;
  // Of one that rounds: `tensor` rounded to bf16. Undefined before Parameters::RoundMatrices.
  torch::Tensor half;
  TensorSource source;
  std::vector<std::string> aliases;  // under which files hold copies of it: tied output layers

  // Of an added part: not among the base's tensors, nor in a model's files.
  bool added() const { return kind == ParameterKind::kAddedPart; }
  // Has the values that were loaded, bit by bit, whatever happened in between.
  bool as_loaded() const;
  // What was loaded leaves this process's memory, where it lies in a mapped file: it comes back
  // when somebody reads it.
  void ForgetLoaded() const;
  // `tensor` in fp32 where it is of a file's type, otherwise as it is.
  torch::Tensor master() const { return rounds ? tensor.to(torch::kFloat32) : tensor; }
};

// Addresses of its entries stay valid for its lifetime: a layer keeps `const Parameter*` and sees
// every replacement. Used by one thread at a time.
class Parameters {
 public:
  Parameters() = default;
  Parameters(const Parameters&) = delete;
  Parameters& operator=(const Parameters&) = delete;

  // `parameter.name` must be new.
  const Parameter* Add(Parameter parameter);

  // nullptr if there is none of that name.
  const Parameter* Find(absl::string_view name) const;

  // Puts `tensor` in the place of the named one: the tuning layer's views into its flat buffers,
  // say. Its half is gone. NOT_FOUND for an unknown name, INVALID_ARGUMENT for another shape or
  // element type; one that rounds may be fp32 in the place of its file's type, and back.
  absl::Status SetTensor(absl::string_view name, torch::Tensor tensor);

  // Gives every matrix that rounds and has no half one, and takes those that lie in a mapped file
  // out of memory, one by one: they come back when somebody reads them. Costs nothing when none
  // lacks it.
  void RoundMatrices();
  // The caller keeps the half of the named parameter, which rounds, up to date from now on: bf16,
  // of its shape. Whoever writes into a parameter's memory must do so, or call SetTensor.
  void SetHalf(absl::string_view name, torch::Tensor half);

  // While a model is loaded: rows are multiplied by the half of `parameter`.
  void MarkRounded(const Parameter* parameter);

  // While a model is loaded: weight decay leaves the parameter alone.
  void KeepFromDecay(const Parameter* parameter) {
    all_[index_.at(parameter->name)].decays = false;
  }

  // While a model is loaded: the named parameter freezes with another group than the one that reads
  // it first; its files hold a second copy of it under the name `alias`.
  void SetGroup(absl::string_view name, int group);
  // While a model is loaded: the named parameter is of this group, which reads it first too.
  void MoveToGroup(absl::string_view name, int group);
  // While a model is loaded: `parameter` is a bias.
  void MarkBias(const Parameter* parameter);
  // Adapters of the model hold the named parameter of the base.
  void MarkKeptBeside(absl::string_view name);
  // While a part is added: the named parameter trains with it.
  void MarkBesideAdded(absl::string_view name);
  void AddAlias(absl::string_view name, std::string alias);

  // Ordered as the architecture lists them; the order is part of no file format.
  const std::deque<Parameter>& all() const { return all_; }

 private:
  std::deque<Parameter> all_;
  bool lacks_halves_ = false;
  std::unordered_map<std::string, size_t> index_;
};

}  // namespace thaw
