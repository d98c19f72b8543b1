#include "worker/model/reference_ops.h"

#include <cmath>

namespace thaw::reference {
namespace {

using torch::Tensor;

// Factors of rows [first_row, first_row + rows) and plane, element by element.
Tensor FactorsLike(const Tensor& x, const DropoutSite& site, int64_t first_row, uint32_t plane) {
  if (x.is_meta()) return at::ones_like(x);
  Tensor factors = at::empty({x.size(0), x.size(1)}, torch::kFloat32);
  float* out = factors.data_ptr<float>();
  for (int64_t r = 0; r < x.size(0); ++r) {
    for (int64_t c = 0; c < x.size(1); ++c) {
      *out++ = DropoutFactor(site, static_cast<uint32_t>(first_row + r), plane,
                             static_cast<uint32_t>(c));
    }
  }
  return factors.to(x.options());
}

Tensor LayerNorm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double epsilon) {
  const Tensor centred = x - x.mean(1, true);
  return centred * (centred.square().mean(1, true) + epsilon).rsqrt() * gamma + beta;
}

}  // namespace

Tensor GatherRows(const Tensor& x, const Tensor& rows) {
  return x.gather(0, rows.unsqueeze(1).expand({-1, x.size(1)}));
}

Tensor Dropout(const Tensor& x, const DropoutSite& dropout) {
  return dropout.active() ? x * FactorsLike(x, dropout, 0, 0) : x;
}

Tensor EmbeddingNorm(const EmbeddingInputs& inputs, const Tensor& word, const Tensor& position,
                     const Tensor& type, const Tensor& gamma, const Tensor& beta, double epsilon,
                     const DropoutSite& dropout) {
  const Tensor types = inputs.types.defined() ? inputs.types : at::zeros_like(inputs.ids);
  Tensor words = GatherRows(word, inputs.ids);
  const Tensor trains = at::ne(inputs.ids, inputs.padding_id).to(words.dtype()).unsqueeze(1);
  words = words * trains + words.detach() * (1 - trains);
  const Tensor sum = words + GatherRows(type, types) + GatherRows(position, inputs.positions);
  return Dropout(LayerNorm(sum, gamma, beta, epsilon), dropout);
}

Tensor Attention(const Tensor& q, const Tensor& k, const Tensor& v,
                 const std::vector<int32_t>& q_bounds, const std::vector<int32_t>& k_bounds,
                 int64_t heads, const DropoutSite& dropout) {
  const int64_t dim = q.size(1) / heads;
  const auto head_rows = [&](const Tensor& x, const std::vector<int32_t>& bounds, size_t s) {
    return x.slice(0, bounds[s], bounds[s + 1]).reshape({-1, heads, dim}).transpose(0, 1);
  };
  std::vector<Tensor> results;
  for (size_t s = 0; s + 1 < q_bounds.size(); ++s) {
    const Tensor queries = head_rows(q, q_bounds, s);
    const Tensor scores = at::matmul(queries, head_rows(k, k_bounds, s).transpose(1, 2)) /
                          std::sqrt(static_cast<double>(dim));
    Tensor weights = at::softmax(scores, 2);
    if (dropout.active()) {
      std::vector<Tensor> factors;
      for (int64_t h = 0; h < heads; ++h) {
        factors.push_back(
            FactorsLike(weights.select(0, h), dropout, q_bounds[s], static_cast<uint32_t>(h)));
      }
      weights = weights * at::stack(factors);
    }
    const Tensor out = at::matmul(weights, head_rows(v, k_bounds, s));
    results.push_back(out.transpose(0, 1).reshape({-1, heads * dim}));
  }
  return at::cat(results);
}

Tensor ResidualNorm(const Tensor& x, const Tensor& bias, const Tensor& residual,
                    const Tensor& gamma, const Tensor& beta, double epsilon,
                    const DropoutSite& dropout) {
  const Tensor sum = residual + Dropout(x + bias, dropout);
  return LayerNorm(sum, gamma, beta, epsilon);
}

Tensor Mlp(ActivationKind activation, const Tensor& x, const Tensor& w1, const Tensor& b1,
           const Tensor& w2) {
  const Tensor hidden = at::linear(x, w1, b1);
  switch (activation) {
    case ActivationKind::kGeluErf:
      return at::linear(at::gelu(hidden), w2);
    case ActivationKind::kGeluTanh:
      return at::linear(at::gelu(hidden, "tanh"), w2);
    case ActivationKind::kRelu:
      return at::linear(at::relu(hidden), w2);
  }
  TORCH_CHECK(false, "unknown activation");
}

}  // namespace thaw::reference
