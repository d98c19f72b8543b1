#include <algorithm>
#include <optional>

#include "worker/model/autograd_support.h"
#include "worker/model/ops.h"
#include "worker/model/reference_ops.h"

namespace thaw {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Where a projection's tensors are among the function's inputs (x is the first), and from where on
// those among the saved ones.
struct ProjectionInputs {
  size_t weight = 0;
  std::optional<size_t> bias;
  bool input_major = false;
  std::optional<size_t> down;  // up is the next
  double scale = 1;
  DropoutSite dropout;
  Tensor half, down_half, up_half;
  size_t saved = 0;  // the weight, and with a low-rank change: down, up and the rows between
};

Tensor MaybeDropped(const Tensor& x, const DropoutSite& dropout) {
  return dropout.active() ? DroppedOut(x, dropout, x.scalar_type()) : x;
}

struct ProjectionsFunction : torch::autograd::Function<ProjectionsFunction> {
  static variable_list forward(AutogradContext* context, const Tensor& x, at::TensorList parameters,
                               std::vector<ProjectionInputs> inputs) {
    variable_list saved = {x}, results;
    for (ProjectionInputs& input : inputs) {
      const Tensor& weight = parameters[input.weight - 1];
      const Tensor bias = input.bias ? parameters[*input.bias - 1] : Tensor();
      const Tensor result =
          at::empty({x.size(0), weight.size(input.input_major ? 1 : 0)}, x.options());
      Project(x, weight, input.half, input.input_major, bias, result);
      input.saved = saved.size();
      saved.push_back(weight);
      if (input.down) {
        const Tensor &down = parameters[*input.down - 1], &up = parameters[*input.down];
        const Tensor between = at::empty({x.size(0), down.size(0)}, x.options());
        Project(MaybeDropped(x, input.dropout), down, input.down_half, false, Tensor(), between);
        between.mul_(input.scale);
        Gemm(between, MatrixFor(x, up, input.up_half).t(), result, true);
        saved.insert(saved.end(), {down, up, between});
      }
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
    variable_list results(2 + 4 * inputs.size());
    if (context->needs_input_grad(0)) results[0] = at::empty_like(x);
    for (size_t i = 0; i < inputs.size(); ++i) {
      const ProjectionInputs& input = inputs[i];
      const Tensor& weight = saved[input.saved];
      const Tensor d = gradients[i].contiguous();
      if (results[0].defined()) {
        ProjectBack(d, weight, input.half, input.input_major, results[0], i > 0);
      }
      const auto d_weight = WeightGradientOf(context->needs_input_grad(input.weight), weight);
      AddWeightGradient(d_weight, x, d, input.input_major);
      results[input.weight] = d_weight.Returned();
      if (input.bias) {
        results[*input.bias] = BiasGradient(context->needs_input_grad(*input.bias), d);
      }
      if (input.down) AddLowRankGradients(context, input, saved, d, &results);
    }
    return results;
  }

  // `d` is the gradient at the projection's result; the base's share of that at x is there already.
  static void AddLowRankGradients(AutogradContext* context, const ProjectionInputs& input,
                                  const variable_list& saved, const Tensor& d,
                                  variable_list* results) {
    const Tensor &x = saved[0], &down = saved[input.saved + 1], &up = saved[input.saved + 2];
    const Tensor& between = saved[input.saved + 3];  // times the scale
    const auto d_up = WeightGradientOf(context->needs_input_grad(*input.down + 1), up);
    AddWeightGradient(d_up, between, d, false);
    (*results)[*input.down + 1] = d_up.Returned();
    const auto d_down = WeightGradientOf(context->needs_input_grad(*input.down), down);
    if (!d_down.sum.defined() && !(*results)[0].defined()) return;
    const Tensor d_between = at::empty_like(between);
    ProjectBack(d, up, input.up_half, false, d_between);
    d_between.mul_(input.scale);
    if (d_down.sum.defined()) {
      AddWeightGradient(d_down, MaybeDropped(x, input.dropout), d_between, false);
      (*results)[*input.down] = d_down.Returned();
    }
    if (!(*results)[0].defined()) return;
    const Tensor& d_x = (*results)[0];
    if (!input.dropout.active()) {
      ProjectBack(d_between, down, input.down_half, false, d_x, true);
      return;
    }
    const Tensor share = at::empty_like(d_x);
    ProjectBack(d_between, down, input.down_half, false, share);
    Kernels().bias_dropout_add(d_x.size(0), d_x.size(1), ElementsOf(share), nullptr, input.dropout,
                               ElementsOf(d_x), ElementsOf(d_x));
  }
};

// What ProjectionsFunction computes by itself.
bool IsFused(Path path, const WeightAndBias& projection) {
  return !projection.changed() ||
         (path == Path::kKernels && !projection.low_rank.magnitude.defined() &&
          !projection.input_scale.defined() && !projection.output_scale.defined());
}

// The same in operations of its own for every part of it.
Tensor ComposedLinear(Path path, const Tensor& x, const WeightAndBias& projection) {
  const Tensor in =
      projection.input_scale.defined() ? ScaleColumns(path, x, projection.input_scale) : x;
  const Tensor& bias = projection.bias;
  Tensor y = Linear(path, in, {projection.weight, bias, projection.input_major, projection.half});
  if (const LowRank& change = projection.low_rank; change.down.defined()) {
    const Tensor between = Linear(path, Dropout(path, in, change.dropout),
                                  {.weight = change.down, .half = change.down_half});
    const Tensor low = Linear(path, between, {.weight = change.up, .half = change.up_half});
    const Tensor scaled = low.to(torch::kFloat) * change.scale;
    if (change.magnitude.defined()) {
      const Tensor longer =
          change.magnitude / RowLengths(projection.weight, projection.input_major, change);
      // In this order a factor of 1 leaves y as it was.
      y = y + (longer - 1) * (bias.defined() ? y - bias : y) + longer * scaled;
    } else {
      y = y + scaled;
    }
    y = y.to(x.scalar_type());
  }
  return projection.output_scale.defined() ? ScaleColumns(path, y, projection.output_scale) : y;
}

struct ScaleColumnsFunction : torch::autograd::Function<ScaleColumnsFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& scale) {
    context->save_for_backward({x, scale});
    return (x * scale).to(x.scalar_type());
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor& d = gradients[0];
    variable_list results(2);
    if (context->needs_input_grad(0)) results[0] = (d * saved[1]).to(d.scalar_type());
    results[1] =
        BiasGradient(context->needs_input_grad(1), (d.to(torch::kFloat) * saved[0]).contiguous());
    return results;
  }
};

}  // namespace

std::vector<Tensor> Projections(Path path, const Tensor& x,
                                const std::vector<WeightAndBias>& parameters) {
  std::vector<Tensor> results;
  const auto fused = [path](const WeightAndBias& one) { return IsFused(path, one); };
  if (!std::all_of(parameters.begin(), parameters.end(), fused)) {
    for (const WeightAndBias& one : parameters) {
      results.push_back(fused(one) ? Linear(path, x, one) : ComposedLinear(path, x, one));
    }
    return results;
  }
  if (path == Path::kReference) {
    for (const WeightAndBias& pair : parameters) results.push_back(reference::Linear(x, pair));
    return results;
  }
  variable_list flat;
  std::vector<ProjectionInputs> inputs;
  for (const WeightAndBias& one : parameters) {
    flat.push_back(one.weight);
    ProjectionInputs input;
    input.weight = flat.size();
    input.input_major = one.input_major;
    input.half = one.half;
    if (one.bias.defined()) {
      flat.push_back(one.bias);
      input.bias = flat.size();
    }
    if (one.low_rank.down.defined()) {
      flat.push_back(one.low_rank.down);
      input.down = flat.size();
      flat.push_back(one.low_rank.up);
      input.down_half = one.low_rank.down_half;
      input.up_half = one.low_rank.up_half;
      input.scale = one.low_rank.scale;
      input.dropout = one.low_rank.dropout;
    }
    inputs.push_back(input);
  }
  return Apply<ProjectionsFunction>(x, at::TensorList(flat), std::move(inputs));
}

Tensor Linear(Path path, const Tensor& x, const WeightAndBias& parameters) {
  return Projections(path, x, {parameters})[0];
}

Tensor ScaleColumns(Path path, const Tensor& x, const Tensor& scale) {
  if (path == Path::kReference) return (x * scale).to(x.scalar_type());
  return Apply<ScaleColumnsFunction>(x, scale);
}

Tensor RowLengths(const Tensor& weight, bool input_major, const LowRank& change) {
  const torch::NoGradGuard no_grad;
  const Tensor dense = DenseForNow(weight, torch::kFloat32);
  const Tensor rows = input_major ? dense.t() : dense;
  return (rows + at::matmul(change.up, change.down) * change.scale).square().sum(1).sqrt();
}

}  // namespace thaw
