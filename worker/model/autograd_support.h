// What the autograd functions of this folder share.
#pragma once

#include <utility>

#include "torch/csrc/autograd/custom_function.h"
#include "torch/types.h"

namespace at::native {
// oneDNN's GEMM, out = alpha a b + beta out. LibTorch exports it but ships no header. It takes
// transposed views, and ignores the process-wide precision switch.
TORCH_API void mkldnn_matmul(const Tensor& a, const Tensor& b, const Tensor& out, float beta,
                             float alpha);
}  // namespace at::native

namespace thaw {

inline void Gemm(const torch::Tensor& a, const torch::Tensor& b, const torch::Tensor& out,
                 bool accumulate = false) {
  at::native::mkldnn_matmul(a, b, out, accumulate ? 1.0f : 0.0f, 1.0f);
}

inline float* Floats(const torch::Tensor& tensor) {
  return tensor.defined() ? tensor.data_ptr<float>() : nullptr;
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
