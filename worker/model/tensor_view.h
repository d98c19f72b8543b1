// Tensors over safetensors, both ways.
#pragma once

#include <memory>
#include <string>

#include "common/safetensors/safetensors.h"
#include "torch/types.h"

namespace thaw {

torch::ScalarType ScalarTypeOf(ElementType type);

// A tensor over the mapping, which it keeps alive. Writing to it is a fault: the pages are
// read-only. Where the data is not aligned to its elements, a copy that stands alone.
torch::Tensor ViewTensor(std::shared_ptr<const SafetensorsFile> file, const TensorInfo& tensor);

// `tensor` must be contiguous on the CPU, of an element type that the format has, and outlive the
// result.
TensorToWrite ToWrite(std::string name, const torch::Tensor& tensor);

}  // namespace thaw
