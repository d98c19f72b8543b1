// A model's linear layers by name, and what an added part makes of each.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "worker/model/parameters.h"

namespace thaw {

// What has been added to one linear layer y = W x + bias. Pointers are null where the part has
// nothing of the kind.
struct AddedToLinear {
  // Low rank (LoRA, arXiv 2106.09685): y += scale B A dropout(x). down is A [rank, in], up is B
  // [out, rank]; both or neither.
  const Parameter *down = nullptr, *up = nullptr;
  double scale = 1;
  double dropout = 0;         // probability, of the change's input alone
  uint32_t dropout_site = 0;  // one for every linear layer of the model, none of the base's
  // DoRA (arXiv 2402.09353): [out], what each row of W + scale B A has as its length.
  const Parameter* magnitude = nullptr;
  // IA3 (arXiv 2205.05638): of the input, [1, in]; of the output with its bias, [out, 1].
  const Parameter *input_scale = nullptr, *output_scale = nullptr;
};

struct LinearLayer {
  std::string name;  // of the module: what stands before ".weight"
  const Parameter* weight = nullptr;
  const Parameter* bias = nullptr;  // null where the layer has none
  bool input_major = false;         // weight is [in, out]: GPT-2's Conv1D
  std::optional<AddedToLinear> added;

  int64_t in() const { return weight->tensor.size(input_major ? 0 : 1); }
  int64_t out() const { return weight->tensor.size(input_major ? 1 : 0); }
};

}  // namespace thaw
