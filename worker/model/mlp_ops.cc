#include "worker/model/autograd_support.h"
#include "worker/model/ops.h"
#include "worker/model/reference_ops.h"

namespace thaw {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// activation(x + bias). Where there is a bias it is added to x in place, which must then be the
// caller's to give away.
struct ActivateFunction : torch::autograd::Function<ActivateFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x_given, const Tensor& bias,
                        ActivationKind kind) {
    const Tensor x = x_given.contiguous(), y = at::empty_like(x);
    Kernels().activation_forward(kind, x.size(0), x.size(1), ElementsOf(x), Floats(bias),
                                 ElementsOf(y));
    context->save_for_backward({x});
    Hold(context, kind);
    return y;
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const Tensor x = context->get_saved_variables()[0];
    const Tensor d = gradients[0].clone(at::MemoryFormat::Contiguous);
    Kernels().activation_backward(HeldIn<ActivationKind>(context), x.size(0), x.size(1),
                                  ElementsOf(x), ElementsOf(d), nullptr);
    return {d, BiasGradient(context->needs_input_grad(1), d), Tensor()};
  }
};

struct MlpState {
  ActivationKind activation;
  bool first_input_major, second_input_major;
  Tensor first_half, second_half;
  DropoutSite dropout;
};

struct MlpFunction : torch::autograd::Function<MlpFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& w1,
                        const Tensor& b1, const Tensor& w2, const MlpState& state) {
    const int64_t width = w1.size(state.first_input_major ? 1 : 0);
    const Tensor hidden = at::empty({x.size(0), width}, x.options());
    const Tensor activated = at::empty_like(hidden);
    const Tensor result =
        at::empty({x.size(0), w2.size(state.second_input_major ? 1 : 0)}, x.options());
    Project(x, w1, state.first_half, state.first_input_major, Tensor(), hidden);
    Kernels().activation_forward(state.activation, hidden.size(0), width, ElementsOf(hidden),
                                 Floats(b1), ElementsOf(activated));
    DropOut(activated, state.dropout);
    Project(activated, w2, state.second_half, state.second_input_major, Tensor(), result);
    context->save_for_backward({x, w1, w2, hidden});
    Hold(context, state);
    return result;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &w1 = saved[1], &w2 = saved[2], &hidden = saved[3];
    const auto& state = HeldIn<MlpState>(context);
    const Tensor d = gradients[0].contiguous();
    variable_list results(5);
    const auto d_w1 = WeightGradientOf(context->needs_input_grad(1), w1);
    const auto d_w2 = WeightGradientOf(context->needs_input_grad(3), w2);
    results[1] = d_w1.Returned();
    results[3] = d_w2.Returned();
    Tensor activated = EmptyLike(d_w2.sum.defined(), hidden);
    const Tensor d_hidden = at::empty_like(hidden);
    ProjectBack(d, w2, state.second_half, state.second_input_major, d_hidden);
    DropOut(d_hidden, state.dropout);
    Kernels().activation_backward(state.activation, hidden.size(0), hidden.size(1),
                                  ElementsOf(hidden), ElementsOf(d_hidden), ElementsOf(activated));
    DropOut(activated, state.dropout);
    AddWeightGradient(d_w2, activated, d, state.second_input_major);
    activated.reset();
    results[2] = BiasGradient(context->needs_input_grad(2), d_hidden);
    AddWeightGradient(d_w1, x, d_hidden, state.first_input_major);
    if (context->needs_input_grad(0)) {
      results[0] = at::empty_like(x);
      ProjectBack(d_hidden, w1, state.first_half, state.first_input_major, results[0]);
    }
    return results;
  }
};

struct GatedMlpState {
  ActivationKind activation;
  bool gate_input_major, up_input_major, down_input_major;
  Tensor gate_half, up_half, down_half;
  DropoutSite dropout;
};

struct GatedMlpFunction : torch::autograd::Function<GatedMlpFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& gate_weight,
                        const Tensor& gate_bias, const Tensor& up_weight, const Tensor& up_bias,
                        const Tensor& down_weight, const GatedMlpState& state) {
    const int64_t width = gate_weight.size(state.gate_input_major ? 1 : 0);
    const Tensor gate = at::empty({x.size(0), width}, x.options());
    const Tensor up = at::empty_like(gate), product = at::empty_like(gate);
    const Tensor result =
        at::empty({x.size(0), down_weight.size(state.down_input_major ? 1 : 0)}, x.options());
    Project(x, gate_weight, state.gate_half, state.gate_input_major, gate_bias, gate);
    Project(x, up_weight, state.up_half, state.up_input_major, up_bias, up);
    Kernels().gated_forward(state.activation, gate.size(0), width, ElementsOf(gate), ElementsOf(up),
                            width, ElementsOf(product));
    DropOut(product, state.dropout);
    Project(product, down_weight, state.down_half, state.down_input_major, Tensor(), result);
    context->save_for_backward({x, gate_weight, up_weight, down_weight, gate, up});
    Hold(context, state);
    return result;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &gate = saved[4], &up = saved[5];
    const auto& state = HeldIn<GatedMlpState>(context);
    const Tensor d = gradients[0].contiguous();
    variable_list results(7);
    const auto d_gate_weight = WeightGradientOf(context->needs_input_grad(1), saved[1]);
    const auto d_up_weight = WeightGradientOf(context->needs_input_grad(3), saved[2]);
    const auto d_down_weight = WeightGradientOf(context->needs_input_grad(5), saved[3]);
    results[1] = d_gate_weight.Returned();
    results[3] = d_up_weight.Returned();
    results[5] = d_down_weight.Returned();
    // First the gradient at the product, then the product itself.
    Tensor product = at::empty_like(gate);
    ProjectBack(d, saved[3], state.down_half, state.down_input_major, product);
    DropOut(product, state.dropout);
    const Tensor d_gate = at::empty_like(gate), d_up = at::empty_like(gate);
    Kernels().gated_backward(state.activation, gate.size(0), gate.size(1), ElementsOf(gate),
                             ElementsOf(up), gate.size(1), ElementsOf(product), ElementsOf(d_gate),
                             ElementsOf(d_up),
                             d_down_weight.sum.defined() ? ElementsOf(product) : nullptr);
    if (d_down_weight.sum.defined()) {
      DropOut(product, state.dropout);
      AddWeightGradient(d_down_weight, product, d, state.down_input_major);
    }
    product.reset();
    AddWeightGradient(d_gate_weight, x, d_gate, state.gate_input_major);
    AddWeightGradient(d_up_weight, x, d_up, state.up_input_major);
    results[2] = BiasGradient(context->needs_input_grad(2), d_gate);
    results[4] = BiasGradient(context->needs_input_grad(4), d_up);
    if (context->needs_input_grad(0)) {
      results[0] = at::empty_like(x);
      ProjectBack(d_gate, saved[1], state.gate_half, state.gate_input_major, results[0]);
      ProjectBack(d_up, saved[2], state.up_half, state.up_input_major, results[0], true);
    }
    return results;
  }
};

// activation(gate) * up, for what comes in parts.
struct GateFunction : torch::autograd::Function<GateFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& gate, const Tensor& up,
                        ActivationKind activation) {
    const Tensor product = at::empty_like(gate);
    Kernels().gated_forward(activation, gate.size(0), gate.size(1), ElementsOf(gate),
                            ElementsOf(up), gate.size(1), ElementsOf(product));
    context->save_for_backward({gate, up});
    Hold(context, activation);
    return product;
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &gate = saved[0], &up = saved[1];
    const Tensor d = gradients[0].contiguous();
    const Tensor d_gate = at::empty_like(gate), d_up = at::empty_like(gate);
    Kernels().gated_backward(HeldIn<ActivationKind>(context), gate.size(0), gate.size(1),
                             ElementsOf(gate), ElementsOf(up), gate.size(1), ElementsOf(d),
                             ElementsOf(d_gate), ElementsOf(d_up), nullptr);
    return {d_gate, d_up, Tensor()};
  }
};

WeightAndBias WithoutBias(WeightAndBias projection) {
  projection.bias = Tensor();
  return projection;
}

// activation(projection(x)), its bias being added where MlpFunction adds it.
Tensor ActivateLinear(Path path, ActivationKind activation, const Tensor& x,
                      const WeightAndBias& projection) {
  if (path == Path::kReference) {
    return reference::Activate(activation, Linear(path, x, projection));
  }
  Tensor bias = OrEmpty(projection.bias);
  if (projection.bias.defined() && projection.output_scale.defined()) {
    bias = bias * projection.output_scale;
  }
  return Apply<ActivateFunction>(Linear(path, x, WithoutBias(projection)), bias, activation);
}

}  // namespace

Tensor Activate(Path path, ActivationKind activation, const Tensor& x) {
  if (path == Path::kReference) return reference::Activate(activation, x);
  return Apply<ActivateFunction>(x, OrEmpty(Tensor()), activation);
}

Tensor Mlp(Path path, ActivationKind activation, const Tensor& x, const WeightAndBias& first,
           const WeightAndBias& second, const DropoutSite& inner_dropout) {
  if (first.changed() || second.changed()) {
    const Tensor inner = ActivateLinear(path, activation, x, first);
    return Linear(path, Dropout(path, inner, inner_dropout), WithoutBias(second));
  }
  if (path == Path::kReference) {
    return reference::Mlp(activation, x, first, second, inner_dropout);
  }
  return Apply<MlpFunction>(x, first.weight, OrEmpty(first.bias), second.weight,
                            MlpState{activation, first.input_major, second.input_major, first.half,
                                     second.half, inner_dropout});
}

Tensor GatedMlp(Path path, ActivationKind activation, const Tensor& x, const WeightAndBias& gate,
                const WeightAndBias& up, const WeightAndBias& down,
                const DropoutSite& inner_dropout) {
  if (gate.changed() || up.changed() || down.changed()) {
    const auto sides = Projections(path, x, {gate, up});
    const Tensor inner = path == Path::kReference
                             ? reference::Gate(activation, sides[0], sides[1])
                             : Apply<GateFunction>(sides[0], sides[1], activation);
    return Linear(path, Dropout(path, inner, inner_dropout), WithoutBias(down));
  }
  if (path == Path::kReference) {
    return reference::GatedMlp(activation, x, gate, up, down, inner_dropout);
  }
  return Apply<GatedMlpFunction>(
      x, gate.weight, OrEmpty(gate.bias), up.weight, OrEmpty(up.bias), down.weight,
      GatedMlpState{activation, gate.input_major, up.input_major, down.input_major, gate.half,
                    up.half, down.half, inner_dropout});
}

}  // namespace thaw
