// NF4 matrices in safetensors, as bitsandbytes stores them: beside "<weight>" with the codes
// "<weight>.absmax", ".quant_map", ".quant_state.bitsandbytes__nf4" and, with scales in 8 bits,
// ".nested_absmax" and ".nested_quant_map".
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/safetensors/safetensors.h"
#include "worker/model/nf4.h"
#include "worker/model/weights.h"

namespace thaw {

// The files hold `name` in NF4.
bool HoldsNf4(const Weights& weights, const std::string& name);

// Takes its tensors out of `weights`: a stand-in (Nf4Tensor) over the mapping. `shape` is the
// layer's, [out, in] or [in, out]. INVALID_ARGUMENT, naming directory and tensor, for anything that
// bitsandbytes would not have written of such a layer.
absl::StatusOr<TensorSource> TakeNf4(Weights* weights, const std::string& name,
                                     const std::vector<int64_t>& shape, bool input_major);

// The tensors of `matrix` under the name `name`; what is not the matrix's own is kept alive by
// `kept`.
std::vector<TensorToWrite> Nf4ToWrite(const std::string& name, const Nf4Matrix& matrix,
                                      std::vector<torch::Tensor>* kept);

}  // namespace thaw
