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
};

struct ProjectionsFunction : torch::autograd::Function<ProjectionsFunction> {
  static variable_list forward(AutogradContext* context, const Tensor& x, at::TensorList parameters,
                               std::vector<ProjectionInputs> inputs) {
    variable_list saved = {x}, results;
    for (const ProjectionInputs& input : inputs) {
      const Tensor& weight = parameters[input.weight - 1];
      const Tensor result = at::empty({x.size(0), weight.size(0)}, x.options());
      Gemm(x, weight.t(), result);
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
      const auto& [weight, bias] = inputs[i];
      const Tensor d = gradients[i].contiguous();
      if (results[0].defined()) Gemm(d, saved[1 + i], results[0], i > 0);
      const auto d_weight = WeightGradientOf(context->needs_input_grad(weight), saved[1 + i]);
      if (d_weight.sum.defined()) Gemm(d.t(), x, d_weight.sum, d_weight.adds);
      results[weight] = d_weight.Returned();
      if (bias && context->needs_input_grad(*bias)) {
        results[*bias] = at::empty({d.size(1)}, d.options());
        Kernels().column_sums(d.size(0), d.size(1), Floats(d), Floats(results[*bias]));
      }
    }
    return results;
  }
};

struct MlpFunction : torch::autograd::Function<MlpFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& w1,
                        const Tensor& b1, const Tensor& w2, ActivationKind activation) {
    const Tensor hidden = at::empty({x.size(0), w1.size(0)}, x.options());
    const Tensor activated = at::empty_like(hidden);
    const Tensor result = at::empty({x.size(0), w2.size(0)}, x.options());
    Gemm(x, w1.t(), hidden);
    Kernels().activation_forward(activation, hidden.size(0), hidden.size(1), Floats(hidden),
                                 Floats(b1), Floats(activated));
    Gemm(activated, w2.t(), result);
    context->save_for_backward({x, w1, w2, hidden});
    Hold(context, activation);
    return result;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &w1 = saved[1], &w2 = saved[2], &hidden = saved[3];
    const Tensor d = gradients[0].contiguous();
    variable_list results(5);
    const auto d_w1 = WeightGradientOf(context->needs_input_grad(1), w1);
    const auto d_w2 = WeightGradientOf(context->needs_input_grad(3), w2);
    results[1] = d_w1.Returned();
    results[3] = d_w2.Returned();
    Tensor activated = EmptyLike(d_w2.sum.defined(), hidden);
    const Tensor d_hidden = at::empty_like(hidden);
    Gemm(d, w2, d_hidden);
    Kernels().activation_backward(HeldIn<ActivationKind>(context), hidden.size(0), hidden.size(1),
                                  Floats(hidden), Floats(d_hidden), Floats(activated));
    if (d_w2.sum.defined()) {
      Gemm(d.t(), activated, d_w2.sum, d_w2.adds);
      activated.reset();
    }
    if (context->needs_input_grad(2)) {
      results[2] = at::empty({w1.size(0)}, d.options());
      Kernels().column_sums(d_hidden.size(0), d_hidden.size(1), Floats(d_hidden),
                            Floats(results[2]));
    }
    if (d_w1.sum.defined()) Gemm(d_hidden.t(), x, d_w1.sum, d_w1.adds);
    if (context->needs_input_grad(0)) {
      results[0] = at::empty_like(x);
      Gemm(d_hidden, w1, results[0]);
    }
    return results;
  }
};

}  // namespace

std::vector<Tensor> Projections(Path path, const Tensor& x,
                                const std::vector<WeightAndBias>& parameters) {
  if (path == Path::kReference) {
    std::vector<Tensor> results;
    for (const auto& [weight, bias] : parameters) results.push_back(at::linear(x, weight, bias));
    return results;
  }
  variable_list flat;
  std::vector<ProjectionInputs> inputs;
  for (const auto& [weight, bias] : parameters) {
    flat.push_back(weight);
    inputs.push_back({flat.size(), std::nullopt});
    if (!bias.defined()) continue;
    flat.push_back(bias);
    inputs.back().bias = flat.size();
  }
  return ProjectionsFunction::apply(x, at::TensorList(flat), std::move(inputs));
}

Tensor Linear(Path path, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  return Projections(path, x, {{weight, bias}})[0];
}

Tensor Mlp(Path path, ActivationKind activation, const Tensor& x, const Tensor& w1,
           const Tensor& b1, const Tensor& w2) {
  if (path == Path::kReference) return reference::Mlp(activation, x, w1, b1, w2);
  return MlpFunction::apply(x, w1, b1, w2, activation);
}

}  // namespace thaw
