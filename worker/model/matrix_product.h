// The matrix products of the autograd functions, by oneDNN or our own kernel.
#pragma once

#include "torch/types.h"
#include "worker/kernels/kernels.h"

namespace thaw {

inline bool IsBf16(const torch::Tensor& x) { return x.scalar_type() == torch::kBFloat16; }
inline Bf16* Halves(const torch::Tensor& tensor) { return static_cast<Bf16*>(tensor.data_ptr()); }

// out = a b, added to what is there if asked for. Two dimensions each, all of one type; a and b may
// be transposed.
void MatrixProduct(const torch::Tensor& a, const torch::Tensor& b, const torch::Tensor& out,
                   bool accumulate);

// The same of rows `a`, with a bias in fp32 [out] where it is not null. Under RowsAlike a row has
// its bits whatever the others are.
void Gemm(const torch::Tensor& a, const torch::Tensor& b, const torch::Tensor& out,
          bool accumulate = false, const float* bias = nullptr);

}  // namespace thaw
