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
#include "torch/types.h"
#include "worker/model/safetensors.h"

namespace thaw {

// Where a tensor came from; `file` is null for one that was drawn anew.
struct TensorSource {
  std::shared_ptr<const SafetensorsFile> file;
  const TensorInfo* info = nullptr;  // its name and element type there
  torch::Tensor loaded;              // what was made of it: fp32
};

struct Parameter {
  std::string name;
  int group = 0;  // index into Model::groups(): with what it freezes
  int first_use =
      0;  // the lowest group that reads it: a tied output layer is read by the embeddings
  bool buffer = false;  // learnt without a gradient: a batch norm's running mean
  bool added = false;   // of an added part: not among the base's tensors, nor in a model's files
  bool beside_added = false;  // the base's own, but trained together with the added part
  torch::Tensor tensor;       // what layers read, each time anew
  TensorSource source;
  std::vector<std::string> aliases;  // under which files hold copies of it: tied output layers

  // Still the very tensor that was loaded, never replaced.
  bool as_loaded() const { return source.file != nullptr && tensor.is_same(source.loaded); }
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
  // say. NOT_FOUND for an unknown name, INVALID_ARGUMENT for another shape or element type.
  absl::Status SetTensor(absl::string_view name, torch::Tensor tensor);

  // While a model is loaded: the named parameter freezes with another group than the one that reads
  // it first; its files hold a second copy of it under the name `alias`.
  void SetGroup(absl::string_view name, int group);
  // While a part is added: the named parameter trains with it.
  void MarkBesideAdded(absl::string_view name);
  void AddAlias(absl::string_view name, std::string alias);

  // Ordered as the architecture lists them; the order is part of no file format.
  const std::deque<Parameter>& all() const { return all_; }

 private:
  std::deque<Parameter> all_;
  std::unordered_map<std::string, size_t> index_;
};

}  // namespace thaw
