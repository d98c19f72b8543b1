// What the autograd functions of this folder share.
#pragma once

#include <algorithm>
#include <utility>

#include "torch/csrc/autograd/custom_function.h"
#include "torch/types.h"
#include "worker/kernels/kernels.h"
#include "worker/model/matrix_product.h"
#include "worker/model/nf4.h"
#include "worker/model/rounded_table.h"
#include "worker/model/rows_alike.h"

namespace thaw {

// Autograd functions take no undefined tensors: an empty one stands for what is not given.
inline torch::Tensor OrEmpty(const torch::Tensor& tensor) {
  return tensor.defined() ? tensor : at::empty({0});
}
inline bool Given(const torch::Tensor& tensor) { return tensor.defined() && tensor.numel() > 0; }

inline float* Floats(const torch::Tensor& tensor) {
  return Given(tensor) ? tensor.data_ptr<float>() : nullptr;
}

inline Elements ElementsOf(const torch::Tensor& tensor) {
  if (!Given(tensor)) return nullptr;
  if (IsBf16(tensor)) return static_cast<Bf16*>(tensor.data_ptr());
  return tensor.data_ptr<float>();
}
inline torch::TensorOptions FloatOptions(const torch::Tensor& tensor) {
  return tensor.options().dtype(torch::kFloat);
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

// What rows like `x` are multiplied by: `half` in bf16, or a matrix in NF4 in their own type, which
// is there until the next call.
inline torch::Tensor MatrixFor(const torch::Tensor& x, const torch::Tensor& weight,
                               const torch::Tensor& half) {
  if (weight.is_meta()) return DenseForNow(weight, x.scalar_type());
  if (!IsBf16(x)) return weight;
  TORCH_CHECK(Given(half), "rows in bf16 need the weight in bf16");
  return half;
}

// The weight as [in, out], whichever way it lies.
inline torch::Tensor InputMajor(const torch::Tensor& weight, bool input_major) {
  return input_major ? weight : weight.t();
}

// result = x weightᵀ (+ bias, where it is given).
inline void Project(const torch::Tensor& x, const torch::Tensor& weight, const torch::Tensor& half,
                    bool input_major, const torch::Tensor& bias, const torch::Tensor& result) {
  constexpr int64_t kFewRows = 32;  // up to here reading the weight takes most of the time
  if (IsRoundedTable(x, weight)) {
    OverRoundedTable(weight, [&](int64_t first, const torch::Tensor& rows) {
      const torch::Tensor part = at::empty({x.size(0), rows.size(0)}, x.options());
      Project(x, rows, torch::Tensor(), false,
              Given(bias) ? bias.narrow(0, first, rows.size(0)) : bias, part);
      result.narrow(1, first, rows.size(0)).copy_(part);
    });
    return;
  }
  const torch::Tensor matrix = MatrixFor(x, weight, half);
  if (x.size(0) <= kFewRows && !RowsAlike::on() && x.is_contiguous() && matrix.is_contiguous()) {
    Kernels().skinny_matmul(input_major ? WeightLayout::kInOut : WeightLayout::kOutIn, x.size(0),
                            x.size(1), result.size(1), ElementsOf(x), ElementsOf(matrix),
                            Floats(bias), ElementsOf(result));
    return;
  }
  Gemm(x, InputMajor(matrix, input_major), result, false, Floats(bias));
}

// d_x (+)= d weight.
inline void ProjectBack(const torch::Tensor& d, const torch::Tensor& weight,
                        const torch::Tensor& half, bool input_major, const torch::Tensor& d_x,
                        bool accumulate = false) {
  if (IsRoundedTable(d, weight)) {
    OverRoundedTable(weight, [&](int64_t first, const torch::Tensor& rows) {
      Gemm(d.narrow(1, first, rows.size(0)).contiguous(), rows, d_x, accumulate || first > 0);
    });
    return;
  }
  Gemm(d, InputMajor(MatrixFor(d, weight, half), input_major).t(), d_x, accumulate);
}

// sum (+)= aᵀ b of rows in bf16, in fp32 where the kernels can.
inline void AddTransposedProduct(const torch::Tensor& a, const torch::Tensor& b,
                                 const torch::Tensor& sum, bool accumulate) {
  if (Kernels().matmul_transposed != nullptr && a.is_contiguous() && b.is_contiguous()) {
    Kernels().matmul_transposed(a.size(0), a.size(1), b.size(1), Halves(a), Halves(b), accumulate,
                                Floats(sum));
    return;
  }
  const torch::Tensor product = at::empty(sum.sizes(), a.options());
  MatrixProduct(a.t(), b, product, false);
  if (accumulate) {
    Kernels().add(product.numel(), Halves(product), Floats(sum));
  } else {
    sum.copy_(product);
  }
}

// d_weight (+)= what x [rows, in] and d [rows, out] give, in the weight's own layout.
inline void AddWeightGradient(const WeightGradient& d_weight, const torch::Tensor& x,
                              const torch::Tensor& d, bool input_major) {
  if (!d_weight.sum.defined()) return;
  const torch::Tensor &a = input_major ? x : d, &b = input_major ? d : x;
  if (IsBf16(x)) {
    AddTransposedProduct(a, b, d_weight.sum, d_weight.adds);
  } else {
    Gemm(a.t(), b, d_weight.sum, d_weight.adds);
  }
}

inline torch::Tensor BiasGradient(bool wanted, const torch::Tensor& d) {
  if (!wanted) return {};
  const torch::Tensor sums = at::empty({d.size(1)}, FloatOptions(d));
  Kernels().column_sums(d.size(0), d.size(1), ElementsOf(d), Floats(sums));
  return sums;
}

// dropout(x) in a tensor of its own, of the given type.
inline torch::Tensor DroppedOut(const torch::Tensor& x_given, const DropoutSite& dropout,
                                torch::ScalarType type) {
  const torch::Tensor x = x_given.contiguous(), y = at::empty(x.sizes(), x.options().dtype(type));
  Kernels().bias_dropout_add(x.size(0), x.size(1), ElementsOf(x), nullptr, dropout, nullptr,
                             ElementsOf(y));
  return y;
}
// x = dropout(x).
inline void DropOut(const torch::Tensor& x, const DropoutSite& dropout) {
  if (!dropout.active() || !x.defined()) return;
  Kernels().bias_dropout_add(x.size(0), x.size(1), ElementsOf(x), nullptr, dropout, nullptr,
                             ElementsOf(x));
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
