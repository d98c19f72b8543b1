#include "worker/model/autograd_support.h"
#include "worker/model/ops.h"
#include "worker/model/reference_ops.h"

namespace thaw {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct ResidualNormFunction : torch::autograd::Function<ResidualNormFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& bias,
                        const Tensor& residual, const Tensor& gamma, const Tensor& beta,
                        double epsilon, const DropoutSite& dropout) {
    const Tensor y = at::empty_like(x);
    const Tensor inverse_deviation = at::empty({x.size(0)}, FloatOptions(x));
    Kernels().residual_norm_forward(x.size(0), x.size(1), ElementsOf(x), Floats(bias),
                                    ElementsOf(residual), Floats(gamma), Floats(beta),
                                    static_cast<float>(epsilon), dropout, ElementsOf(y),
                                    Floats(inverse_deviation));
    context->save_for_backward({x.detach(), inverse_deviation, gamma});
    Hold(context, dropout);
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &normalised = saved[0], &gamma = saved[2];
    const DropoutSite& dropout = HeldIn<DropoutSite>(context);
    const Tensor d = gradients[0].contiguous();
    const Tensor d_residual = at::empty_like(normalised);
    const Tensor d_x = EmptyLike(dropout.active(), normalised);
    const Tensor d_bias = EmptyLike(context->needs_input_grad(1), gamma);
    const Tensor d_gamma = EmptyLike(context->needs_input_grad(3), gamma);
    const Tensor d_beta = EmptyLike(context->needs_input_grad(4), gamma);
    Kernels().residual_norm_backward(d.size(0), d.size(1), ElementsOf(d), ElementsOf(normalised),
                                     Floats(saved[1]), Floats(gamma), dropout,
                                     ElementsOf(d_residual), ElementsOf(d_x), Floats(d_gamma),
                                     Floats(d_beta), Floats(d_bias));
    return {
        d_x.defined() ? d_x : d_residual, d_bias, d_residual, d_gamma, d_beta, Tensor(), Tensor()};
  }
};

// Rows of `norm.weight`'s size; x, y and their like are contiguous.
int64_t RowsOf(const Tensor& x, const Tensor& weight) { return x.numel() / weight.size(0); }

struct NormState {
  NormKind kind;
  float epsilon;
  DropoutSite dropout;
  torch::ScalarType type = torch::kFloat;  // of the normed rows
};

struct NormaliseFunction : torch::autograd::Function<NormaliseFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x_given, const Tensor& weight,
                        const Tensor& bias, const NormState& state) {
    const Tensor x = x_given.contiguous(), y = at::empty(x.sizes(), x.options().dtype(state.type));
    const int64_t rows = RowsOf(x, weight);
    const Tensor moments = at::empty({rows, 2}, FloatOptions(x));
    Kernels().sum_norm_forward(state.kind, rows, weight.size(0), ElementsOf(x), nullptr, nullptr,
                               Floats(weight), Floats(bias), state.epsilon, DropoutSite(), nullptr,
                               ElementsOf(y), Floats(moments));
    context->save_for_backward({x, moments, weight});
    Hold(context, state);
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[2];
    const Tensor d = gradients[0].contiguous(), d_x = at::empty_like(x);
    const Tensor d_weight = EmptyLike(context->needs_input_grad(1), weight);
    const Tensor d_bias = EmptyLike(context->needs_input_grad(2), weight);
    Kernels().sum_norm_backward(HeldIn<NormState>(context).kind, RowsOf(x, weight), weight.size(0),
                                ElementsOf(d), nullptr, ElementsOf(x), Floats(saved[1]),
                                Floats(weight), DropoutSite(), ElementsOf(d_x), nullptr,
                                Floats(d_weight), Floats(d_bias), nullptr);
    return {d_x, d_weight, d_bias, Tensor()};
  }
};

// Sums of residuals are fp32: a sum in fp32 takes the place of x, one of rows in bf16 its own.
Tensor RoomForSum(const Tensor& x) {
  return IsBf16(x) ? at::empty(x.sizes(), FloatOptions(x)) : x.variable_data();
}

struct AddendState {
  DropoutSite dropout;
  torch::ScalarType type;  // of x
};

// The gradient at x of residual + dropout(x), from that at the sum.
Tensor AddendGradient(const Tensor& d, const AddendState& state) {
  if (!state.dropout.active() && state.type == d.scalar_type()) return d;
  return DroppedOut(d, state.dropout, state.type);
}

struct ResidualFunction : torch::autograd::Function<ResidualFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& bias,
                        const Tensor& residual_given, const DropoutSite& dropout) {
    Tensor sum = RoomForSum(x);
    const Tensor residual = residual_given.contiguous();
    Kernels().bias_dropout_add(sum.size(0), sum.size(1), ElementsOf(x), Floats(bias), dropout,
                               Floats(residual), ElementsOf(sum));
    Hold(context, AddendState{dropout, x.scalar_type()});
    return sum;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const Tensor d = gradients[0].contiguous();
    const Tensor d_x = AddendGradient(d, HeldIn<AddendState>(context));
    return {d_x, BiasGradient(context->needs_input_grad(1), d_x), d, Tensor()};
  }
};

struct ResidualAndNormFunction : torch::autograd::Function<ResidualAndNormFunction> {
  static variable_list forward(AutogradContext* context, const Tensor& x, const Tensor& bias,
                               const Tensor& residual_given, const Tensor& weight,
                               const Tensor& norm_bias, const NormState& state) {
    const Tensor sum = RoomForSum(x), normed = at::empty_like(x);
    const Tensor residual = residual_given.contiguous();
    const Tensor moments = at::empty({sum.size(0), 2}, sum.options());
    Kernels().sum_norm_forward(state.kind, sum.size(0), sum.size(1), ElementsOf(x), Floats(bias),
                               Floats(residual), Floats(weight), Floats(norm_bias), state.epsilon,
                               state.dropout, Floats(sum), ElementsOf(normed), Floats(moments));
    context->set_materialize_grads(false);
    context->save_for_backward({sum, moments, weight});
    Hold(context, state);
    return {sum, normed};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &sum = saved[0], &weight = saved[2];
    const auto& state = HeldIn<NormState>(context);
    variable_list results(6);
    if (!gradients[0].defined() && !gradients[1].defined()) return results;
    const Tensor d_sum = gradients[0].defined() ? gradients[0].contiguous() : Tensor();
    if (!gradients[1].defined()) {
      results[0] = AddendGradient(d_sum, {state.dropout, state.type});
      results[1] = BiasGradient(context->needs_input_grad(1), results[0]);
      results[2] = d_sum;
      return results;
    }
    const Tensor d_normed = gradients[1].contiguous();
    const bool differs = state.dropout.active() || IsBf16(d_normed);
    const Tensor d_x = EmptyLike(differs, d_normed);
    results[1] = EmptyLike(context->needs_input_grad(1), weight);
    results[2] = at::empty_like(sum);
    results[3] = EmptyLike(context->needs_input_grad(3), weight);
    results[4] = EmptyLike(context->needs_input_grad(4), weight);
    Kernels().sum_norm_backward(state.kind, sum.size(0), sum.size(1), ElementsOf(d_normed),
                                Floats(d_sum), ElementsOf(sum), Floats(saved[1]), Floats(weight),
                                state.dropout, ElementsOf(results[2]), ElementsOf(d_x),
                                Floats(results[3]), Floats(results[4]), Floats(results[1]));
    results[0] = d_x.defined() ? d_x : results[2];
    return results;
  }
};

struct DropoutFunction : torch::autograd::Function<DropoutFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const DropoutSite& dropout) {
    Hold(context, dropout);
    return DroppedOut(x, dropout, x.scalar_type());
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const Tensor& d = gradients[0];
    return {DroppedOut(d, HeldIn<DropoutSite>(context), d.scalar_type()), Tensor()};
  }
};

}  // namespace

Tensor ResidualNorm(Path path, const Tensor& x, const Tensor& bias, const Tensor& residual,
                    const Tensor& gamma, const Tensor& beta, double epsilon,
                    const DropoutSite& dropout) {
  if (path == Path::kReference) {
    return reference::Normalise(reference::Residual(x, bias, residual, dropout),
                                {NormKind::kLayer, gamma, beta, epsilon, x.scalar_type()});
  }
  TORCH_CHECK(residual.scalar_type() == x.scalar_type(), "x and residual are of one type");
  return Apply<ResidualNormFunction>(x, bias, residual, gamma, beta, epsilon, dropout);
}

Tensor Normalise(Path path, const Tensor& x, const Norm& norm) {
  if (path == Path::kReference) return reference::Normalise(x, norm);
  return Apply<NormaliseFunction>(
      x, norm.weight, OrEmpty(norm.bias),
      NormState{norm.kind, static_cast<float>(norm.epsilon), DropoutSite(), norm.type});
}

Tensor NormaliseHeads(Path path, const Tensor& x, const Norm& norm) {
  Norm of_heads = norm;
  of_heads.type = x.scalar_type();
  return Normalise(path, x.unflatten(1, {-1, norm.weight.size(0)}), of_heads).flatten(1);
}

Tensor Residual(Path path, const Tensor& x, const Tensor& bias, const Tensor& residual,
                const DropoutSite& dropout) {
  if (path == Path::kReference) return reference::Residual(x, bias, residual, dropout);
  return Apply<ResidualFunction>(x, OrEmpty(bias), residual, dropout);
}

SumAndNorm ResidualAndNorm(Path path, const Tensor& x, const Tensor& bias, const Tensor& residual,
                           const Norm& norm, const DropoutSite& dropout) {
  if (path == Path::kReference) {
    const Tensor sum = reference::Residual(x, bias, residual, dropout);
    Norm like_x = norm;
    like_x.type = x.scalar_type();
    return {sum, reference::Normalise(sum, like_x)};
  }
  const variable_list both = Apply<ResidualAndNormFunction>(
      x, OrEmpty(bias), residual, norm.weight, OrEmpty(norm.bias),
      NormState{norm.kind, static_cast<float>(norm.epsilon), dropout, x.scalar_type()});
  return {both[0], both[1]};
}

Tensor Dropout(Path path, const Tensor& x, const DropoutSite& dropout) {
  if (!dropout.active()) return x;
  if (path == Path::kReference) return reference::Dropout(x, dropout);
  return Apply<DropoutFunction>(x, dropout);
}

}  // namespace thaw
