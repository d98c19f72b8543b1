#include <algorithm>

#include "worker/model/autograd_support.h"
#include "worker/model/ops.h"
#include "worker/model/reference_ops.h"

namespace thaw {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct CrossEntropyFunction : torch::autograd::Function<CrossEntropyFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& logits, const Tensor& labels) {
    const Tensor x = logits.contiguous();
    const Tensor d_logits = at::empty_like(x);
    const double loss =
        Kernels().cross_entropy(x.size(0), x.size(1), ElementsOf(x), labels.data_ptr<int64_t>(),
                                ElementsOf(d_logits), nullptr, nullptr);
    context->save_for_backward({d_logits});
    return at::scalar_tensor(loss, x.options());
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    return {context->get_saved_variables()[0] * gradients[0], Tensor()};
  }
};

void CheckLabels(const Tensor& labels, int64_t classes) {
  for (int64_t i = 0; i < labels.numel(); ++i) {
    const int64_t label = labels.data_ptr<int64_t>()[i];
    TORCH_CHECK((label >= 0 && label < classes) || label == -100, "row ", i,
                ": expected a label below ", classes, ", found ", label);
  }
}

// How many rows of logits exist at a time.
int64_t LogitRows(int64_t classes) {
  constexpr int64_t kElements = int64_t{1} << 24;  // 64 MiB in fp32
  return std::max<int64_t>(32, kElements / classes);
}

// The gradients are computed with the loss, for the logits are not kept: what comes from above is
// one number, by which they are multiplied.
struct LinearCrossEntropyFunction : torch::autograd::Function<LinearCrossEntropyFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& states, const Tensor& weight,
                        const Tensor& bias, const Tensor& labels, const Tensor& half,
                        bool differentiable) {
    const Tensor counted = at::nonzero(at::ne(labels, -100)).squeeze(1);
    const bool all = counted.size(0) == labels.size(0);
    const Tensor x = all ? states.contiguous() : states.index_select(0, counted);
    const Tensor own_labels = all ? labels.contiguous() : labels.index_select(0, counted);
    const bool wants_weight = differentiable && weight.requires_grad();
    const bool wants_bias = differentiable && bias.requires_grad();
    Tensor d_x = EmptyLike(differentiable && states.requires_grad(), x);
    const WeightGradient d_weight = {wants_weight ? at::zeros_like(weight) : Tensor(), true};
    const Tensor d_bias = wants_bias ? at::zeros_like(bias) : Tensor();
    const bool wants_any = d_x.defined() || wants_weight || wants_bias;
    const int64_t classes = weight.size(0);
    const int64_t step = std::min(LogitRows(classes), std::max<int64_t>(1, x.size(0)));
    const Tensor buffer = at::empty({step, classes}, x.options());
    double loss = 0;
    for (int64_t first = 0; first < x.size(0); first += step) {
      const int64_t rows = std::min(step, x.size(0) - first);
      const Tensor chunk = x.narrow(0, first, rows), logits = buffer.narrow(0, 0, rows);
      Project(chunk, weight, half, false, bias, logits);
      loss += Kernels().cross_entropy(rows, classes, ElementsOf(logits),
                                      own_labels.data_ptr<int64_t>() + first,
                                      wants_any ? ElementsOf(logits) : nullptr, nullptr, nullptr);
      if (d_x.defined()) ProjectBack(logits, weight, half, false, d_x.narrow(0, first, rows));
      AddWeightGradient(d_weight, chunk, logits, false);
      if (wants_bias) d_bias.add_(BiasGradient(true, logits));
    }
    if (d_x.defined() && !all) d_x = at::zeros_like(states).index_copy_(0, counted, d_x);
    context->save_for_backward({d_x, d_weight.sum, d_bias, weight});
    return at::scalar_tensor(loss, FloatOptions(x));
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto scaled = [&](const Tensor& d) { return d.defined() ? d * gradients[0] : Tensor(); };
    variable_list results = {scaled(saved[0]), Tensor(), scaled(saved[2]),
                             Tensor(),         Tensor(), Tensor()};
    if (!saved[1].defined()) return results;
    const auto d_weight = WeightGradientOf(context->needs_input_grad(1), saved[3]);
    if (d_weight.adds) {
      d_weight.sum.add_(saved[1], gradients[0].item<double>());
    } else {
      results[1] = scaled(saved[1]);
    }
    return results;
  }
};

}  // namespace

Tensor CrossEntropySum(const Tensor& logits, const Tensor& labels) {
  CheckLabels(labels, logits.size(1));
  return Apply<CrossEntropyFunction>(logits.to(torch::kFloat), labels);
}

Tensor LinearCrossEntropySum(Path path, const Tensor& states, const Tensor& weight,
                             const Tensor& bias, const Tensor& labels, const Tensor& half) {
  if (path == Path::kReference) {
    return reference::LinearCrossEntropySum(states, weight, bias, labels, half);
  }
  CheckLabels(labels, weight.size(0));
  return Apply<LinearCrossEntropyFunction>(states, weight, OrEmpty(bias), labels, OrEmpty(half),
                                           torch::GradMode::is_enabled());
}

Tensor LinearLogProbabilities(Path path, const Tensor& states, const Tensor& weight,
                              const Tensor& bias, const Tensor& labels, const Tensor& half) {
  const torch::NoGradGuard no_grad;
  if (path == Path::kReference) {
    return reference::LinearLogProbabilities(states, weight, bias, labels, half);
  }
  CheckLabels(labels, weight.size(0));
  const Tensor x = states.contiguous(), all_labels = labels.contiguous();
  const int64_t classes = weight.size(0);
  const int64_t step = std::min(LogitRows(classes), std::max<int64_t>(1, x.size(0)));
  const Tensor buffer = at::empty({step, classes}, x.options());
  const Tensor results = at::empty({x.size(0)}, FloatOptions(x));
  for (int64_t first = 0; first < x.size(0); first += step) {
    const int64_t rows = std::min(step, x.size(0) - first);
    const Tensor logits = buffer.narrow(0, 0, rows);
    Project(x.narrow(0, first, rows), weight, half, false, bias, logits);
    Kernels().cross_entropy(rows, classes, ElementsOf(logits),
                            all_labels.data_ptr<int64_t>() + first, nullptr,
                            Floats(results) + first, nullptr);
  }
  return results;
}

Tensor BinaryCrossEntropySum(const Tensor& logits, const Tensor& targets) {
  return at::binary_cross_entropy_with_logits(logits.to(torch::kFloat), targets, {}, {},
                                              at::Reduction::Sum);
}

Tensor SquaredErrorSum(const Tensor& logits, const Tensor& targets) {
  return (logits.to(torch::kFloat) - targets).square().sum();
}

}  // namespace thaw
