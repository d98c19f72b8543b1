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

struct ProjectionsFunction : torch::autograd::Function<ProjectionsFunction> {
  static variable_list forward(AutogradContext* context, const Tensor& x, at::TensorList parameters,
                               std::vector<ProjectionInputs> inputs) {
    variable_list saved = {x}, results;
    for (const ProjectionInputs& input : inputs) {
      const Tensor& weight = parameters[input.weight - 1];
      const Tensor bias = input.bias ? parameters[*input.bias - 1] : Tensor();
      const Tensor result =
          at::empty({x.size(0), weight.size(input.input_major ? 1 : 0)}, x.options());
      Project(x, weight, input.input_major, bias, result);
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
      if (bias) results[*bias] = BiasGradient(context->needs_input_grad(*bias), d);
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
  return Apply<ProjectionsFunction>(x, at::TensorList(flat), std::move(inputs));
}

Tensor Linear(Path path, const Tensor& x, const WeightAndBias& parameters) {
  return Projections(path, x, {parameters})[0];
}

}  // namespace thaw
