#include <optional>

#include "worker/model/autograd_support.h"
#include "worker/model/ops.h"
#include "worker/model/reference_ops.h"

namespace thaw {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Where the weight and bias of a projection are among the function's inputs: x is the first.
struct ProjectionInputs {
  size_t weight;
  std::optional<size_t> bias;
  bool input_major;
};

// The weight as [in, out], whichever way it lies.
Tensor InputMajor(const Tensor& weight, bool input_major) {
  return input_major ? weight : weight.t();
}

// d_weight (+)= what x [rows, in] and d [rows, out] give, in the weight's own layout.
void AddWeightGradient(const WeightGradient& d_weight, const Tensor& x, const Tensor& d,
                       bool input_major) {
  if (!d_weight.sum.defined()) return;
  if (input_major) {
    Gemm(x.t(), d, d_weight.sum, d_weight.adds);
  } else {
    Gemm(d.t(), x, d_weight.sum, d_weight.adds);
  }
}

struct ProjectionsFunction : torch::autograd::Function<ProjectionsFunction> {
  static variable_list forward(AutogradContext* context, const Tensor& x, at::TensorList parameters,
                               std::vector<ProjectionInputs> inputs) {
    variable_list saved = {x}, results;
    for (const ProjectionInputs& input : inputs) {
      const Tensor& weight = parameters[input.weight - 1];
      const Tensor matrix = InputMajor(weight, input.input_major);
      const Tensor result = at::empty({x.size(0), matrix.size(1)}, x.options());
      Gemm(x, matrix, result);
      if (input.bias) {
        Kernels().bias_dropout(result.size(0), result.size(1), Floats(result),
                               Floats(parameters[*input.bias - 1]), DropoutSite());
      }
      saved.push_back(weight);
      results.push_back(result);
    }
    context->save_for_backward(std::move(saved));
    Hold(context, std::move(inputs));
    return results;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto& inputs = HeldIn<std::vector<ProjectionInputs>>(context);
    const Tensor& x = saved[0];
    variable_list results(2 + 2 * inputs.size());
    if (context->needs_input_grad(0)) results[0] = at::empty_like(x);
    for (size_t i = 0; i < inputs.size(); ++i) {
      const auto& [weight, bias, input_major] = inputs[i];
      const Tensor d = gradients[i].contiguous();
      if (results[0].defined()) {
        Gemm(d, InputMajor(saved[1 + i], input_major).t(), results[0], i > 0);
      }
      const auto d_weight = WeightGradientOf(context->needs_input_grad(weight), saved[1 + i]);
      AddWeightGradient(d_weight, x, d, input_major);
      results[weight] = d_weight.Returned();
      if (bias && context->needs_input_grad(*bias)) {
        results[*bias] = at::empty({d.size(1)}, d.options());
        Kernels().column_sums(d.size(0), d.size(1), Floats(d), Floats(results[*bias]));
      }
    }
    return results;
  }
};

struct MlpState {
  ActivationKind activation;
  bool first_input_major, second_input_major;
};

struct MlpFunction : torch::autograd::Function<MlpFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& w1,
                        const Tensor& b1, const Tensor& w2, const MlpState& state) {
    const Tensor first = InputMajor(w1, state.first_input_major);
    const Tensor second = InputMajor(w2, state.second_input_major);
    const Tensor hidden = at::empty({x.size(0), first.size(1)}, x.options());
    const Tensor activated = at::empty_like(hidden);
    const Tensor result = at::empty({x.size(0), second.size(1)}, x.options());
    Gemm(x, first, hidden);
    Kernels().activation_forward(state.activation, hidden.size(0), hidden.size(1), Floats(hidden),
                                 Floats(b1), Floats(activated));
    Gemm(activated, second, result);
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
    Gemm(d, InputMajor(w2, state.second_input_major).t(), d_hidden);
    Kernels().activation_backward(state.activation, hidden.size(0), hidden.size(1), Floats(hidden),
                                  Floats(d_hidden), Floats(activated));
    AddWeightGradient(d_w2, activated, d, state.second_input_major);
    activated.reset();
    if (context->needs_input_grad(2)) {
      results[2] = at::empty({hidden.size(1)}, d.options());
      Kernels().column_sums(d_hidden.size(0), d_hidden.size(1), Floats(d_hidden),
                            Floats(results[2]));
    }
    AddWeightGradient(d_w1, x, d_hidden, state.first_input_major);
    if (context->needs_input_grad(0)) {
      results[0] = at::empty_like(x);
      Gemm(d_hidden, InputMajor(w1, state.first_input_major).t(), results[0]);
    }
    return results;
  }
};

}  // namespace

std::vector<Tensor> Projections(Path path, const Tensor& x,
                                const std::vector<WeightAndBias>& parameters) {
  if (path == Path::kReference) {
    std::vector<Tensor> results;
    for (const WeightAndBias& pair : parameters) results.push_back(reference::Linear(x, pair));
    return results;
  }
  variable_list flat;
  std::vector<ProjectionInputs> inputs;
  for (const auto& [weight, bias, input_major] : parameters) {
    flat.push_back(weight);
    inputs.push_back({flat.size(), std::nullopt, input_major});
    if (!bias.defined()) continue;
    flat.push_back(bias);
    inputs.back().bias = flat.size();
  }
  return ProjectionsFunction::apply(x, at::TensorList(flat), std::move(inputs));
}

Tensor Linear(Path path, const Tensor& x, const WeightAndBias& parameters) {
  return Projections(path, x, {parameters})[0];
}

Tensor Activate(Path path, ActivationKind activation, const Tensor& x) {
  return reference::Activate(activation, x);
}

Tensor Mlp(Path path, ActivationKind activation, const Tensor& x, const WeightAndBias& first,
           const WeightAndBias& second, const DropoutSite& inner_dropout) {
  const bool served =
      first.bias.defined() && !inner_dropout.active() && activation != ActivationKind::kSilu;
  if (path == Path::kReference || !served) {
    return reference::Mlp(activation, x, first, second, inner_dropout);
  }
  return MlpFunction::apply(x, first.weight, first.bias, second.weight,
                            MlpState{activation, first.input_major, second.input_major});
}

Tensor GatedMlp(Path path, ActivationKind activation, const Tensor& x, const WeightAndBias& gate,
                const WeightAndBias& up, const WeightAndBias& down,
                const DropoutSite& inner_dropout) {
  return reference::GatedMlp(activation, x, gate, up, down, inner_dropout);
}

}  // namespace thaw
