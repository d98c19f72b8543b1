#include "worker/model/autograd_support.h"
#include "worker/model/ops.h"
#include "worker/model/reference_ops.h"

namespace thaw {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct EmbeddingState {
  EmbeddingInputs inputs;
  DropoutSite dropout;
};

const int64_t* Indices(const Tensor& ids) {
  return ids.defined() ? ids.data_ptr<int64_t>() : nullptr;
}

// y = word[ids] + position[positions] + type[types].
void SumOfRows(const EmbeddingInputs& inputs, const Tensor& word, const Tensor& position,
               const Tensor& type, const Tensor& y) {
  Kernels().embedding_forward(y.size(0), y.size(1), Indices(inputs.ids), Indices(inputs.positions),
                              Indices(inputs.types), Floats(word), Floats(position), Floats(type),
                              Floats(y));
}

// The gradient of a table whose rows `ids` (undefined: row 0) were read, from that at the rows.
Tensor TableGradient(bool wanted, const Tensor& table, const Tensor& ids, const Tensor& d,
                     int64_t padding_id) {
  if (!wanted || !Given(table)) return Tensor();
  const auto gradient = WeightGradientOf(true, table);
  if (!gradient.adds) gradient.sum.zero_();
  // What is there already stays: of earlier micro-steps, or of a tied output layer.
  const Tensor padding = padding_id < 0 ? Tensor() : gradient.sum[padding_id].clone();
  Kernels().scatter_add(d.size(0), d.size(1), Indices(ids), Floats(d), Floats(gradient.sum));
  if (padding.defined()) gradient.sum[padding_id].copy_(padding);
  return gradient.Returned();
}

Tensor Undropped(const Tensor& gradient, const DropoutSite& dropout) {
  return dropout.active() ? DroppedOut(gradient, dropout, gradient.scalar_type())
                          : gradient.contiguous();
}

struct EmbeddingNormFunction : torch::autograd::Function<EmbeddingNormFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& word, const Tensor& position,
                        const Tensor& type, const Tensor& gamma, const Tensor& beta,
                        const EmbeddingInputs& inputs, double epsilon, const DropoutSite& dropout) {
    const int64_t rows = inputs.ids.size(0), columns = word.size(1);
    const Tensor normalised = at::empty({rows, columns}, word.options());
    const Tensor y = at::empty({rows, columns}, word.options().dtype(inputs.type));
    const Tensor inverse_deviation = at::empty({rows}, word.options());
    SumOfRows(inputs, word, position, type, normalised);
    Kernels().residual_norm_forward(rows, columns, ElementsOf(normalised), nullptr, nullptr,
                                    Floats(gamma), Floats(beta), static_cast<float>(epsilon),
                                    DropoutSite(), ElementsOf(y), Floats(inverse_deviation));
    DropOut(y, dropout);
    context->save_for_backward({normalised, inverse_deviation, word, position, type, gamma});
    Hold(context, EmbeddingState{inputs, dropout});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &normalised = saved[0], &gamma = saved[5];
    const auto& [inputs, dropout] = HeldIn<EmbeddingState>(context);
    const Tensor d = Undropped(gradients[0], dropout);
    const Tensor d_sum = at::empty_like(normalised);
    variable_list results(8);
    results[3] = EmptyLike(context->needs_input_grad(3), gamma);
    results[4] = EmptyLike(context->needs_input_grad(4), gamma);
    Kernels().residual_norm_backward(d.size(0), d.size(1), ElementsOf(d), ElementsOf(normalised),
                                     Floats(saved[1]), Floats(gamma), DropoutSite(),
                                     ElementsOf(d_sum), nullptr, Floats(results[3]),
                                     Floats(results[4]), nullptr);
    results[0] =
        TableGradient(context->needs_input_grad(0), saved[2], inputs.ids, d_sum, inputs.padding_id);
    results[1] = TableGradient(context->needs_input_grad(1), saved[3], inputs.positions, d_sum, -1);
    results[2] = TableGradient(context->needs_input_grad(2), saved[4], inputs.types, d_sum, -1);
    return results;
  }
};

struct EmbeddingFunction : torch::autograd::Function<EmbeddingFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& word, const Tensor& position,
                        const EmbeddingInputs& inputs, const DropoutSite& dropout) {
    const Tensor y = at::empty({inputs.ids.size(0), word.size(1)}, word.options());
    SumOfRows(inputs, word, position, Tensor(), y);
    DropOut(y, dropout);
    context->save_for_backward({word, position});
    Hold(context, EmbeddingState{inputs, dropout});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto& [inputs, dropout] = HeldIn<EmbeddingState>(context);
    const Tensor d = Undropped(gradients[0], dropout);
    return {TableGradient(context->needs_input_grad(0), saved[0], inputs.ids, d, inputs.padding_id),
            TableGradient(context->needs_input_grad(1), saved[1], inputs.positions, d, -1),
            Tensor(), Tensor()};
  }
};

// A table in bf16 is not trained: of its rows those that are read become fp32, one for each id.
struct RowsInFp32 {
  Tensor word;
  EmbeddingInputs inputs;
};
RowsInFp32 ReadRounded(const EmbeddingInputs& inputs, const Tensor& word) {
  RowsInFp32 read = {word.index_select(0, inputs.ids).to(torch::kFloat32), inputs};
  read.inputs.ids = at::arange(inputs.ids.size(0), inputs.ids.options());
  read.inputs.padding_id = -1;
  return read;
}
bool IsRounded(const Tensor& word) { return word.scalar_type() == torch::kBFloat16; }

}  // namespace

Tensor EmbeddingNorm(Path path, const EmbeddingInputs& inputs, const Tensor& word,
                     const Tensor& position, const Tensor& type, const Tensor& gamma,
                     const Tensor& beta, double epsilon, const DropoutSite& dropout) {
  if (IsRounded(word)) {
    const RowsInFp32 read = ReadRounded(inputs, word);
    return EmbeddingNorm(path, read.inputs, read.word, position, type, gamma, beta, epsilon,
                         dropout);
  }
  if (path == Path::kReference) {
    return reference::EmbeddingNorm(inputs, word, position, type, gamma, beta, epsilon, dropout);
  }
  return Apply<EmbeddingNormFunction>(word, OrEmpty(position), OrEmpty(type), gamma, beta, inputs,
                                      epsilon, dropout);
}

Tensor Embedding(Path path, const EmbeddingInputs& inputs, const Tensor& word,
                 const Tensor& position, const DropoutSite& dropout) {
  if (IsRounded(word)) {
    const RowsInFp32 read = ReadRounded(inputs, word);
    return Embedding(path, read.inputs, read.word, position, dropout);
  }
  if (path == Path::kReference) return reference::Embedding(inputs, word, position, dropout);
  return Apply<EmbeddingFunction>(word, OrEmpty(position), inputs, dropout);
}

}  // namespace thaw
