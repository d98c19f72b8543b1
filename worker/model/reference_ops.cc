#include "worker/model/reference_ops.h"

#include "worker/model/nf4.h"
#include "worker/model/packed_rows.h"

namespace thaw::reference {
namespace {

using torch::Tensor;

// What is computed with: fp32 in the place of bf16.
Tensor Wide(const Tensor& x) {
  return x.scalar_type() == torch::kBFloat16 ? x.to(torch::kFloat) : x;
}
// What is stored of an fp32 result.
Tensor Stored(const Tensor& x, torch::ScalarType type) {
  return x.scalar_type() == torch::kFloat ? x.to(type) : x;
}

// What rows like `x` are multiplied by: has the value of `half` in bf16, but is the weight to
// autograd.
Tensor Matrix(const Tensor& x, const Tensor& weight, const Tensor& half) {
  if (Nf4Of(weight) != nullptr) return Dense(weight).to(x.scalar_type()).to(torch::kFloat);
  if (x.scalar_type() != torch::kBFloat16) {
    return weight.scalar_type() == torch::kBFloat16 ? weight.to(torch::kFloat) : weight;
  }
  TORCH_CHECK(half.defined(), "rows in bf16 need the weight in bf16");
  return weight + (half.to(torch::kFloat) - weight).detach();
}

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
  const Tensor centred = x - x.mean(-1, true);
  return centred * (centred.square().mean(-1, true) + epsilon).rsqrt() * gamma + beta;
}

// Words with gradient in all rows but the padding's.
Tensor Words(const EmbeddingInputs& inputs, const Tensor& word) {
  const Tensor words = GatherRows(word, inputs.ids);
  if (inputs.padding_id < 0) return words;
  const Tensor trains = at::ne(inputs.ids, inputs.padding_id).to(words.dtype()).unsqueeze(1);
  return words * trains + words.detach() * (1 - trains);
}

// What is added to the scores of one sequence, [heads or 1, queries, keys]; undefined: nothing.
Tensor ScoreBias(const AttentionSpec& spec, int64_t queries, int64_t keys, const Tensor& like) {
  const auto integers = like.options().dtype(torch::kInt64);
  const Tensor distance = at::arange(keys, integers).unsqueeze(0) -
                          at::arange(keys - queries, keys, integers).unsqueeze(1);
  Tensor bias;
  if (spec.relative_bias.defined()) {
    const int64_t span = (spec.relative_bias.size(1) + 1) / 2;
    const Tensor column = (distance.clamp(1 - span, span - 1) + span - 1).reshape({1, -1});
    bias = spec.relative_bias.gather(1, column.expand({spec.relative_bias.size(0), -1}))
               .reshape({spec.relative_bias.size(0), queries, keys});
  }
  if (!spec.causal) return bias;
  Tensor mask = at::zeros(distance.sizes(), like.options()).masked_fill(at::gt(distance, 0), -1e30);
  if (spec.window > 0) mask = mask.masked_fill(at::le(distance, -spec.window), -1e30);
  return bias.defined() ? bias + mask : mask.unsqueeze(0);
}

Tensor Activated(ActivationKind activation, const Tensor& x) {
  switch (activation) {
    case ActivationKind::kGeluErf:
      return at::gelu(x);
    case ActivationKind::kGeluTanh:
      return at::gelu(x, "tanh");
    case ActivationKind::kRelu:
      return at::threshold(x, 0, 0);  // relu does not run on the meta device
    case ActivationKind::kSilu:
      return at::silu(x);
    case ActivationKind::kQuickGelu:
      return x * at::sigmoid(x * 1.702);
    case ActivationKind::kTanh:
      return at::tanh(x);
  }
  TORCH_CHECK(false, "unknown activation");
}

WeightAndBias BiasLess(WeightAndBias parameters) {
  parameters.bias = Tensor();
  return parameters;
}

}  // namespace

Tensor Normalise(const Tensor& x_given, const Norm& norm) {
  const Tensor x = Wide(x_given);
  const Tensor normed = norm.kind == NormKind::kLayer
                            ? LayerNorm(x, norm.weight, norm.bias, norm.epsilon)
                            : x * (x.square().mean(-1, true) + norm.epsilon).rsqrt() * norm.weight;
  return Stored(normed, norm.type);
}

Tensor Dropout(const Tensor& x_given, const DropoutSite& dropout) {
  if (!dropout.active()) return x_given;
  const Tensor x = Wide(x_given);
  return Stored(x * FactorsLike(x, dropout, 0, 0), x_given.scalar_type());
}

Tensor EmbeddingNorm(const EmbeddingInputs& inputs, const Tensor& word, const Tensor& position,
                     const Tensor& type, const Tensor& gamma, const Tensor& beta, double epsilon,
                     const DropoutSite& dropout) {
  Tensor sum = Words(inputs, word);
  if (type.defined()) {
    sum =
        sum + GatherRows(type, inputs.types.defined() ? inputs.types : at::zeros_like(inputs.ids));
  }
  if (position.defined()) sum = sum + GatherRows(position, inputs.positions);
  return Dropout(Stored(LayerNorm(sum, gamma, beta, epsilon), inputs.type), dropout);
}

Tensor Embedding(const EmbeddingInputs& inputs, const Tensor& word, const Tensor& position,
                 const DropoutSite& dropout) {
  Tensor sum = Words(inputs, word);
  if (position.defined()) sum = sum + GatherRows(position, inputs.positions);
  return Dropout(sum, dropout);
}

Tensor Attention(const Tensor& q_given, const Tensor& k_given, const Tensor& v_given,
                 const AttentionSpec& spec) {
  const Tensor q = Wide(q_given), k = Wide(k_given), v = Wide(v_given);
  const int64_t heads = q.size(1), share = heads / k.size(1);
  const auto head_rows = [&](const Tensor& x, const std::vector<int32_t>& bounds, size_t s) {
    const Tensor rows = x.slice(0, bounds[s], bounds[s + 1]).transpose(0, 1);
    return x.size(1) == heads ? rows : rows.repeat_interleave(share, 0);
  };
  std::vector<Tensor> results;
  for (size_t s = 0; s + 1 < spec.q_bounds.size(); ++s) {
    const Tensor queries = head_rows(q, spec.q_bounds, s), keys = head_rows(k, spec.k_bounds, s);
    Tensor scores = at::matmul(queries, keys.transpose(1, 2)) * spec.scale;
    const Tensor bias = ScoreBias(spec, queries.size(1), keys.size(1), scores);
    if (bias.defined()) scores = scores + bias;
    Tensor weights = at::softmax(scores, 2);
    if (spec.dropout.active()) {
      std::vector<Tensor> factors;
      for (int64_t h = 0; h < heads; ++h) {
        factors.push_back(FactorsLike(weights.select(0, h), spec.dropout, spec.q_bounds[s],
                                      static_cast<uint32_t>(h)));
      }
      weights = weights * at::stack(factors);
    }
    const Tensor out = at::matmul(weights, head_rows(v, spec.k_bounds, s));
    results.push_back(out.transpose(0, 1).reshape({out.size(1), heads * out.size(2)}));
  }
  return Stored(at::cat(results), q_given.scalar_type());
}

Tensor CachedAttention(const Tensor& q, const Tensor& k, const Tensor& v, AttentionSpec spec,
                       const std::vector<int32_t>& lengths, BlockState* block) {
  const size_t sequences = spec.q_bounds.size() - 1;
  block->keys.resize(sequences);
  block->values.resize(sequences);
  std::vector<Tensor> keys, values;
  spec.k_bounds = {0};
  for (size_t s = 0; s < sequences; ++s) {
    const int32_t begin = spec.q_bounds[s], end = spec.q_bounds[s + 1];
    AppendRows(k.flatten(1), begin, end, lengths[s], &block->keys[s]);
    AppendRows(v.flatten(1), begin, end, lengths[s], &block->values[s]);
    const int32_t seen = lengths[s] + end - begin;
    keys.push_back(block->keys[s].narrow(0, 0, seen));
    values.push_back(block->values[s].narrow(0, 0, seen));
    spec.k_bounds.push_back(spec.k_bounds.back() + seen);
  }
  const std::vector<int64_t> shape = {-1, k.size(1), k.size(2)};
  return Attention(q, at::cat(keys).view(shape), at::cat(values).view(shape), spec);
}

Tensor Rotate(const Tensor& x_given, const Tensor& positions, const Tensor& cosines,
              const Tensor& sines) {
  const Tensor x = Wide(x_given);
  const int64_t half = cosines.size(1);
  const Tensor cosine = GatherRows(cosines, positions).unsqueeze(1);
  const Tensor sine = GatherRows(sines, positions).unsqueeze(1);
  const Tensor first = x.slice(2, 0, half), second = x.slice(2, half, 2 * half);
  const Tensor turned = at::cat(
      {first * cosine - second * sine, second * cosine + first * sine, x.slice(2, 2 * half)}, 2);
  return Stored(turned, x_given.scalar_type());
}

Tensor Residual(const Tensor& x_given, const Tensor& bias, const Tensor& residual,
                const DropoutSite& dropout) {
  const Tensor x = Wide(x_given);
  return Wide(residual) + Dropout(bias.defined() ? x + bias : x, dropout);
}

Tensor Linear(const Tensor& x, const WeightAndBias& parameters) {
  const Tensor matrix = Matrix(x, parameters.weight, parameters.half);
  return Stored(at::linear(Wide(x), parameters.input_major ? matrix.t() : matrix, parameters.bias),
                x.scalar_type());
}

Tensor Activate(ActivationKind activation, const Tensor& x) {
  return Stored(Activated(activation, Wide(x)), x.scalar_type());
}

Tensor Gate(ActivationKind activation, const Tensor& gate, const Tensor& up) {
  return Stored(Activated(activation, Wide(gate)) * Wide(up), gate.scalar_type());
}

Tensor Mlp(ActivationKind activation, const Tensor& x, const WeightAndBias& first,
           const WeightAndBias& second, const DropoutSite& inner_dropout) {
  const Tensor inner = Dropout(Activate(activation, Linear(x, first)), inner_dropout);
  return Linear(inner, BiasLess(second));
}

Tensor GatedMlp(ActivationKind activation, const Tensor& x, const WeightAndBias& gate,
                const WeightAndBias& up, const WeightAndBias& down,
                const DropoutSite& inner_dropout) {
  const Tensor inner = Dropout(Gate(activation, Linear(x, gate), Linear(x, up)), inner_dropout);
  return Linear(inner, BiasLess(down));
}

Tensor LinearCrossEntropySum(const Tensor& states, const Tensor& weight, const Tensor& bias,
                             const Tensor& labels, const Tensor& half) {
  const Tensor logits = Wide(Linear(states, {weight, bias, false, half}));
  const Tensor log_probabilities = at::log_softmax(logits, 1);
  const Tensor counts = at::ne(labels, -100);
  const Tensor picked = log_probabilities.gather(1, at::where(counts, labels, 0).unsqueeze(1));
  return -(picked.squeeze(1) * counts.to(picked.dtype())).sum();
}

Tensor LinearLogProbabilities(const Tensor& states, const Tensor& weight, const Tensor& bias,
                              const Tensor& labels, const Tensor& half) {
  constexpr int64_t kChunk = 256;  // rows
  std::vector<Tensor> results;
  for (int64_t first = 0; first < states.size(0); first += kChunk) {
    const Tensor logits =
        Wide(Linear(states.slice(0, first, first + kChunk), {weight, bias, false, half}));
    const Tensor own = logits.gather(1, labels.slice(0, first, first + kChunk).unsqueeze(1));
    results.push_back(own.squeeze(1) - at::logsumexp(logits, {1}));
  }
  return at::cat(results);
}

}  // namespace thaw::reference
