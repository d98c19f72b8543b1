// What the autograd functions of this folder share.
#pragma once

#include <utility>

#include "torch/csrc/autograd/custom_function.h"
#include "torch/types.h"
#include "worker/kernels/kernels.h"
#include "worker/model/nf4.h"
#include "worker/model/rounded_table.h"
#include "worker/model/rows_alike.h"

namespace at::native {
// oneDNN's GEMM, out = alpha a b + beta out. LibTorch exports it but ships no header. It takes
// transposed views, and ignores the process-wide precision switch.
TORCH_API void mkldnn_matmul(const Tensor& a, const Tensor& b, const Tensor& out, float beta,
                             float alpha);
}  // namespace at::native

namespace thaw {

inline void Gemm(const torch::Tensor& a, const torch::Tensor& b, const torch::Tensor& out,
                 bool accumulate = false) {
  if (RowsAlike::on() && a.size(0) == 1) {
    const torch::Tensor twice = at::empty({2, out.size(1)}, out.options());
    if (accumulate) twice.copy_(out.expand_as(twice));
    at::native::mkldnn_matmul(a.expand({2, a.size(1)}).contiguous(), b, twice,
                              accumulate ? 1.0f : 0.0f, 1.0f);
    out.copy_(twice.narrow(0, 0, 1));
    return;
  }
  at::native::mkldnn_matmul(a, b, out, accumulate ? 1.0f : 0.0f, 1.0f);
}

// Autograd functions take no undefined tensors: an empty one stands for what is not given.
inline torch::Tensor OrEmpty(const torch::Tensor& tensor) {
  return tensor.defined() ? tensor : at::empty({0});
}
inline bool Given(const torch::Tensor& tensor) { return tensor.defined() && tensor.numel() > 0; }

inline float* Floats(const torch::Tensor& tensor) {
  return Given(tensor) ? tensor.data_ptr<float>() : nullptr;
}

inline torch::Tensor EmptyLike(bool wanted, const torch::Tensor& tensor) {
  return wanted ? at::empty_like(tensor, at::MemoryFormat::Contiguous) : torch::Tensor();
}

// The gradient of a saved weight in the making. A leaf whose .grad is already there (the
// trainables' views into one flat buffer) is added to in place, and autograd hears of no gradient:
// at small steps, dense gradients made only to be added would cost more than computing them.
struct WeightGradient {
  torch::Tensor sum;  // undefined where none is wanted
  bool adds = false;  // `sum` holds what must be kept

  // What the backward pass returns for this weight.
  torch::Tensor Returned() const { return adds ? torch::Tensor() : sum; }
};
inline WeightGradient WeightGradientOf(bool wanted, const torch::Tensor& weight) {
  if (!wanted) return {};
  if (weight.is_leaf() && !torch::GradMode::is_enabled()) {
    const torch::Tensor& preset = weight.grad();
    if (preset.defined() && preset.is_contiguous()) return {preset, true};
  }
  return {at::empty_like(weight, at::MemoryFormat::Contiguous), false};
}

// The weight's numbers as [in, out], whichever way it lies, for the next operation.
inline torch::Tensor InputMajor(const torch::Tensor& weight, bool input_major) {
  const torch::Tensor dense = DenseForNow(weight);
  return input_major ? dense : dense.t();
}

// result = x weightᵀ (+ bias, where it is given).
inline void Project(const torch::Tensor& x, const torch::Tensor& any_weight, bool input_major,
                    const torch::Tensor& bias, const torch::Tensor& result) {
  constexpr int64_t kFewRows = 32;  // up to here reading the weight takes most of the time
  if (IsRoundedTable(x, any_weight)) {
    OverRoundedTable(any_weight, [&](int64_t first, const torch::Tensor& rows) {
      const torch::Tensor part = at::empty({x.size(0), rows.size(0)}, x.options());
      Project(x, rows, false, Given(bias) ? bias.narrow(0, first, rows.size(0)) : bias, part);
      result.narrow(1, first, rows.size(0)).copy_(part);
    });
    return;
  }
  const torch::Tensor weight = DenseForNow(any_weight);
  if (x.size(0) <= kFewRows && !RowsAlike::on() && x.is_contiguous() && weight.is_contiguous()) {
    Kernels().skinny_matmul(input_major ? WeightLayout::kInOut : WeightLayout::kOutIn, x.size(0),
                            x.size(1), result.size(1), Floats(x), Floats(weight), Floats(bias),
                            Floats(result));
    return;
  }
  Gemm(x, InputMajor(weight, input_major), result);
  if (Given(bias)) {
    Kernels().bias_dropout(result.size(0), result.size(1), Floats(result), Floats(bias),
                           DropoutSite());
  }
}

// d_x (+)= d weight.
inline void ProjectBack(const torch::Tensor& d, const torch::Tensor& weight, bool input_major,
                        const torch::Tensor& d_x, bool accumulate = false) {
  if (IsRoundedTable(d, weight)) {
    OverRoundedTable(weight, [&](int64_t first, const torch::Tensor& rows) {
      Gemm(d.narrow(1, first, rows.size(0)).contiguous(), rows, d_x, accumulate || first > 0);
    });
    return;
  }
  Gemm(d, InputMajor(weight, input_major).t(), d_x, accumulate);
}

// d_weight (+)= what x [rows, in] and d [rows, out] give, in the weight's own layout.
inline void AddWeightGradient(const WeightGradient& d_weight, const torch::Tensor& x,
                              const torch::Tensor& d, bool input_major) {
  if (!d_weight.sum.defined()) return;
  if (input_major) {
    Gemm(x.t(), d, d_weight.sum, d_weight.adds);
  } else {
    Gemm(d.t(), x, d_weight.sum, d_weight.adds);
  }
}

inline torch::Tensor BiasGradient(bool wanted, const torch::Tensor& d) {
  if (!wanted) return {};
  const torch::Tensor sums = at::empty({d.size(1)}, d.options());
  Kernels().column_sums(d.size(0), d.size(1), Floats(d), Floats(sums));
  return sums;
}

// F::apply, or where no gradient is wanted F::forward alone: making a node of the graph only to
// throw it away would take a good part of a token's time in generation.
template <typename F, typename... Arguments>
auto Apply(Arguments&&... arguments) {
  if (torch::GradMode::is_enabled()) return F::apply(std::forward<Arguments>(arguments)...);
  torch::autograd::AutogradContext unused;
  return F::forward(&unused, std::forward<Arguments>(arguments)...);
}

// Keeps a plain struct with a graph node.
template <typename T>
struct Held : torch::CustomClassHolder {
  explicit Held(T held) : value(std::move(held)) {}
  T value;
};
template <typename T>
void Hold(torch::autograd::AutogradContext* context, T value) {
  context->saved_data["held"] =
      c10::IValue::make_capsule(c10::make_intrusive<Held<T>>(std::move(value)));
}
template <typename T>
const T& HeldIn(torch::autograd::AutogradContext* context) {
  return static_cast<Held<T>*>(context->saved_data["held"].toCapsule().get())->value;
}

}  // namespace thaw
