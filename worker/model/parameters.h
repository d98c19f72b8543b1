// The named tensors of one model. Names are those of the checkpoint (Hugging Face), in their
// canonical spelling: what freezing, optimizer, checkpoints and results all speak of.
#pragma once

#include <deque>
#include <string>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "torch/types.h"

namespace thaw {

struct Parameter {
  std::string name;
  int group = 0;         // index into Model::groups()
  torch::Tensor tensor;  // what layers read, each time anew
};

// Addresses of its entries stay valid for its lifetime: a layer keeps `const Parameter*` and sees
// every replacement. Used by one thread at a time.
class Parameters {
 public:
  Parameters() = default;
  Parameters(const Parameters&) = delete;
  Parameters& operator=(const Parameters&) = delete;

  // `name` must be new.
  const Parameter* Add(std::string name, int group, torch::Tensor tensor);

  // nullptr if there is none of that name.
  const Parameter* Find(absl::string_view name) const;

  // Puts `tensor` in the place of the named one: the tuning layer's views into its flat buffers,
  // say. NOT_FOUND for an unknown name, INVALID_ARGUMENT for another shape or element type.
  absl::Status SetTensor(absl::string_view name, torch::Tensor tensor);

  // Ordered by group, then as the architecture lists them; the order is part of no file format.
  const std::deque<Parameter>& all() const { return all_; }

 private:
  std::deque<Parameter> all_;
  std::unordered_map<std::string, size_t> index_;
};

}  // namespace thaw
