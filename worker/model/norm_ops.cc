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
    const Tensor inverse_deviation = at::empty({x.size(0)}, x.options());
    Kernels().residual_norm_forward(x.size(0), x.size(1), Floats(x), Floats(bias), Floats(residual),
                                    Floats(gamma), Floats(beta), static_cast<float>(epsilon),
                                    dropout, Floats(y), Floats(inverse_deviation));
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
    Kernels().residual_norm_backward(d.size(0), d.size(1), Floats(d), Floats(normalised),
                                     Floats(saved[1]), Floats(gamma), dropout, Floats(d_residual),
                                     Floats(d_x), Floats(d_gamma), Floats(d_beta), Floats(d_bias));
    return {
        d_x.defined() ? d_x : d_residual, d_bias, d_residual, d_gamma, d_beta, Tensor(), Tensor()};
  }
};

struct EmbeddingState {
  EmbeddingInputs inputs;
  DropoutSite dropout;
};

struct EmbeddingNormFunction : torch::autograd::Function<EmbeddingNormFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& word, const Tensor& position,
                        const Tensor& type, const Tensor& gamma, const Tensor& beta,
                        const EmbeddingInputs& inputs, double epsilon, const DropoutSite& dropout) {
    const int64_t rows = inputs.ids.size(0), columns = word.size(1);
    const Tensor normalised = at::empty({rows, columns}, word.options());
    const Tensor y = at::empty_like(normalised);
    const Tensor inverse_deviation = at::empty({rows}, word.options());
    Kernels().embedding_forward(rows, columns, inputs.ids.data_ptr<int64_t>(),
                                inputs.positions.data_ptr<int64_t>(),
                                inputs.types.defined() ? inputs.types.data_ptr<int64_t>() : nullptr,
                                Floats(word), Floats(position), Floats(type), Floats(normalised));
    Kernels().residual_norm_forward(rows, columns, Floats(normalised), nullptr, nullptr,
                                    Floats(gamma), Floats(beta), static_cast<float>(epsilon),
                                    DropoutSite(), Floats(y), Floats(inverse_deviation));
    if (dropout.active()) {
      Kernels().bias_dropout(rows, columns, Floats(y), nullptr, dropout);
    }
    context->save_for_backward({normalised, inverse_deviation, word, position, type, gamma});
    Hold(context, EmbeddingState{inputs, dropout});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &normalised = saved[0], &gamma = saved[5];
    const auto& [inputs, dropout] = HeldIn<EmbeddingState>(context);
    const int64_t rows = normalised.size(0), columns = normalised.size(1);
    Tensor d = gradients[0].contiguous();
    if (dropout.active()) {
      d = d.clone();
      Kernels().bias_dropout(rows, columns, Floats(d), nullptr, dropout);
    }
    const Tensor d_sum = at::empty_like(normalised);
    variable_list results(8);
    results[3] = EmptyLike(context->needs_input_grad(3), gamma);
    results[4] = EmptyLike(context->needs_input_grad(4), gamma);
    Kernels().residual_norm_backward(rows, columns, Floats(d), Floats(normalised), Floats(saved[1]),
                                     Floats(gamma), DropoutSite(), Floats(d_sum), nullptr,
                                     Floats(results[3]), Floats(results[4]), nullptr);
    const Tensor* const indices[] = {&inputs.ids, &inputs.positions, &inputs.types};
    for (size_t i = 0; i < 3; ++i) {
      const auto table = WeightGradientOf(context->needs_input_grad(i), saved[2 + i]);
      if (!table.sum.defined()) continue;
      if (!table.adds) table.sum.zero_();
      Kernels().scatter_add(rows, columns,
                            indices[i]->defined() ? indices[i]->data_ptr<int64_t>() : nullptr,
                            Floats(d_sum), Floats(table.sum));
      if (i == 0 && inputs.padding_id >= 0) table.sum[inputs.padding_id].zero_();
      results[i] = table.Returned();
    }
    return results;
  }
};

struct DropoutFunction : torch::autograd::Function<DropoutFunction> {
  static Tensor Apply(const Tensor& x, const DropoutSite& dropout) {
    const Tensor y = x.clone(at::MemoryFormat::Contiguous);
    Kernels().bias_dropout(y.size(0), y.size(1), Floats(y), nullptr, dropout);
    return y;
  }
  static Tensor forward(AutogradContext* context, const Tensor& x, const DropoutSite& dropout) {
    Hold(context, dropout);
    return Apply(x, dropout);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    return {Apply(gradients[0], HeldIn<DropoutSite>(context)), Tensor()};
  }
};

struct CrossEntropyFunction : torch::autograd::Function<CrossEntropyFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& logits, const Tensor& labels) {
    const Tensor x = logits.contiguous();
    const Tensor d_logits = at::empty_like(x);
    const double loss =
        Kernels().cross_entropy(x.size(0), x.size(1), Floats(x), labels.data_ptr<int64_t>(),
                                Floats(d_logits), nullptr, nullptr);
    context->save_for_backward({d_logits});
    return at::scalar_tensor(loss, x.options());
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    return {context->get_saved_variables()[0] * gradients[0], Tensor()};
  }
};

}  // namespace

Tensor EmbeddingNorm(Path path, const EmbeddingInputs& inputs, const Tensor& word,
                     const Tensor& position, const Tensor& type, const Tensor& gamma,
                     const Tensor& beta, double epsilon, const DropoutSite& dropout) {
  if (path == Path::kReference || !position.defined() || !type.defined()) {
    return reference::EmbeddingNorm(inputs, word, position, type, gamma, beta, epsilon, dropout);
  }
  return EmbeddingNormFunction::apply(word, position, type, gamma, beta, inputs, epsilon, dropout);
}

Tensor ResidualNorm(Path path, const Tensor& x, const Tensor& bias, const Tensor& residual,
                    const Tensor& gamma, const Tensor& beta, double epsilon,
                    const DropoutSite& dropout) {
  if (path == Path::kReference) {
    return reference::Normalise(reference::Residual(x, bias, residual, dropout),
                                {NormKind::kLayer, gamma, beta, epsilon});
  }
  return ResidualNormFunction::apply(x, bias, residual, gamma, beta, epsilon, dropout);
}

Tensor Dropout(Path path, const Tensor& x, const DropoutSite& dropout) {
  if (!dropout.active()) return x;
  if (path == Path::kReference) return reference::Dropout(x, dropout);
  return DropoutFunction::apply(x, dropout);
}

Tensor Embedding(Path path, const EmbeddingInputs& inputs, const Tensor& word,
                 const Tensor& position, const DropoutSite& dropout) {
  return reference::Embedding(inputs, word, position, dropout);
}

Tensor Normalise(Path path, const Tensor& x, const Norm& norm) {
  return reference::Normalise(x, norm);
}

Tensor NormaliseHeads(Path path, const Tensor& x, const Norm& norm) {
  return reference::Normalise(x.unflatten(1, {-1, norm.weight.size(0)}), norm).flatten(1);
}

Tensor Residual(Path path, const Tensor& x, const Tensor& bias, const Tensor& residual,
                const DropoutSite& dropout) {
  return reference::Residual(x, bias, residual, dropout);
}

SumAndNorm ResidualAndNorm(Path path, const Tensor& x, const Tensor& bias, const Tensor& residual,
                           const Norm& norm, const DropoutSite& dropout) {
  const Tensor sum = reference::Residual(x, bias, residual, dropout);
  return {sum, reference::Normalise(sum, norm)};
}

Tensor LinearCrossEntropySum(Path path, const Tensor& states, const Tensor& weight,
                             const Tensor& bias, const Tensor& labels) {
  return reference::LinearCrossEntropySum(states, weight, bias, labels);
}

Tensor LinearLogProbabilities(Path path, const Tensor& states, const Tensor& weight,
                              const Tensor& bias, const Tensor& labels) {
  const torch::NoGradGuard no_grad;
  constexpr int64_t kChunk = 256;  // rows
  std::vector<Tensor> results;
  for (int64_t first = 0; first < states.size(0); first += kChunk) {
    const Tensor logits =
        Linear(path, states.slice(0, first, first + kChunk), {weight, bias, false});
    const Tensor own = logits.gather(1, labels.slice(0, first, first + kChunk).unsqueeze(1));
    results.push_back(own.squeeze(1) - at::logsumexp(logits, {1}));
  }
  return at::cat(results);
}

Tensor CrossEntropySum(const Tensor& logits, const Tensor& labels) {
  for (int64_t i = 0; i < labels.numel(); ++i) {
    const int64_t label = labels.data_ptr<int64_t>()[i];
    TORCH_CHECK((label >= 0 && label < logits.size(1)) || label == -100, "row ", i,
                ": expected a label below ", logits.size(1), ", found ", label);
  }
  return CrossEntropyFunction::apply(logits, labels);
}

Tensor BinaryCrossEntropySum(const Tensor& logits, const Tensor& targets) {
  return at::binary_cross_entropy_with_logits(logits, targets, {}, {}, at::Reduction::Sum);
}

Tensor SquaredErrorSum(const Tensor& logits, const Tensor& targets) {
  return (logits - targets).square().sum();
}

}  // namespace thaw
