#include <algorithm>

#include "worker/model/autograd_support.h"
#include "worker/model/ops.h"
#include "worker/model/reference_ops.h"

namespace thaw {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The kernels read rows and heads at any stride, but each head as it comes.
Tensor ContiguousHeads(const Tensor& x) { return x.stride(2) == 1 ? x : x.contiguous(); }

HeadStrides StridesOf(const Tensor& x) { return {x.stride(0), x.stride(1)}; }

// Points into `spec` and `relative_bias`.
AttentionShape ShapeOf(const AttentionSpec& spec, const Tensor& q, const Tensor& k,
                       const Tensor& relative_bias) {
  AttentionShape shape;
  shape.q_bounds = spec.q_bounds.data();
  shape.k_bounds = spec.k_bounds.data();
  shape.sequences = static_cast<int32_t>(spec.q_bounds.size()) - 1;
  shape.heads = static_cast<int32_t>(q.size(1));
  shape.kv_heads = static_cast<int32_t>(k.size(1));
  shape.head_dim = static_cast<int32_t>(q.size(2));
  shape.q = StridesOf(q);
  shape.kv = StridesOf(k);
  shape.out = shape.d_q = {q.size(1) * q.size(2), q.size(2)};
  shape.d_kv = {k.size(1) * k.size(2), k.size(2)};
  shape.scale = static_cast<float>(spec.scale);
  shape.causal = spec.causal;
  shape.window = spec.causal ? spec.window : 0;
  shape.relative_bias = Floats(relative_bias);
  if (Given(relative_bias)) shape.bias_span = (relative_bias.size(1) + 1) / 2;
  shape.dropout = spec.dropout;
  return shape;
}

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  // `spec` without its tensor, which is an input of its own.
  static Tensor forward(AutogradContext* context, const Tensor& q_given, const Tensor& k_given,
                        const Tensor& v_given, const Tensor& relative_bias, AttentionSpec spec) {
    const Tensor q = ContiguousHeads(q_given);
    Tensor k = ContiguousHeads(k_given), v = ContiguousHeads(v_given);
    if (k.strides() != v.strides()) {
      k = k.contiguous();
      v = v.contiguous();
    }
    const Tensor out = at::empty({q.size(0), q.size(1) * q.size(2)}, q.options());
    const Tensor log_sums = at::empty({q.size(0), q.size(1)}, FloatOptions(q));
    Kernels().attention_forward(ShapeOf(spec, q, k, relative_bias), ElementsOf(q), ElementsOf(k),
                                ElementsOf(v), ElementsOf(out), Floats(log_sums));
    context->save_for_backward({q, k, v, relative_bias, out, log_sums});
    Hold(context, std::move(spec));
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &relative_bias = saved[3];
    const Tensor d = gradients[0].contiguous();
    const auto gradient_of = [&](const Tensor& x) { return at::empty(x.sizes(), x.options()); };
    variable_list results = {gradient_of(q), gradient_of(k), gradient_of(v),
                             EmptyLike(context->needs_input_grad(3), relative_bias), Tensor()};
    Kernels().attention_backward(
        ShapeOf(HeldIn<AttentionSpec>(context), q, k, relative_bias), ElementsOf(q), ElementsOf(k),
        ElementsOf(v), ElementsOf(saved[4]), Floats(saved[5]), ElementsOf(d),
        ElementsOf(results[0]), ElementsOf(results[1]), ElementsOf(results[2]), Floats(results[3]));
    return results;
  }
};

void CheckTypes(const Tensor& q, const Tensor& k, const Tensor& v) {
  TORCH_CHECK(q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type(),
              "queries, keys and values are of one type");
}

// Every sequence's queries see something, and none looks before the first key.
void CheckBounds(const AttentionSpec& spec) {
  TORCH_CHECK(spec.q_bounds.size() == spec.k_bounds.size(), "expected as many sequences of keys");
  for (size_t s = 0; s + 1 < spec.q_bounds.size(); ++s) {
    const int32_t queries = spec.q_bounds[s + 1] - spec.q_bounds[s];
    const int32_t keys = spec.k_bounds[s + 1] - spec.k_bounds[s];
    TORCH_CHECK(queries == 0 || keys >= (spec.causal ? queries : 1), "sequence ", s, ": ", queries,
                " queries cannot see ", keys, " keys");
  }
}

constexpr int32_t kDecodedQueries = 4;  // of a sequence: with more, packing the keys pays

// Few queries each: the cached keys are read as they lie.
void DecodeFromCache(const AttentionSpec& spec, const AttentionShape& shape, const Tensor& q,
                     const std::vector<int32_t>& lengths, const BlockState& block,
                     const Tensor& out) {
  std::vector<CachedSequence> sequences;
  for (size_t s = 0; s + 1 < spec.q_bounds.size(); ++s) {
    const int64_t queries = spec.q_bounds[s + 1] - spec.q_bounds[s];
    if (queries == 0) continue;
    sequences.push_back({ElementsOf(block.keys[s]), ElementsOf(block.values[s]),
                         lengths[s] + queries, spec.q_bounds[s], queries});
  }
  DecodeShape decode;
  decode.sequences = sequences.data();
  decode.count = static_cast<int32_t>(sequences.size());
  decode.heads = shape.heads;
  decode.kv_heads = shape.kv_heads;
  decode.head_dim = shape.head_dim;
  decode.q = shape.q;
  decode.kv = shape.d_kv;  // as packed as the gradients
  decode.out = shape.out;
  decode.scale = shape.scale;
  decode.window = shape.window;
  decode.relative_bias = shape.relative_bias;
  decode.bias_span = shape.bias_span;
  Kernels().attention_decode(decode, ElementsOf(q), ElementsOf(out));
}

}  // namespace

Tensor Attention(Path path, const Tensor& q, const Tensor& k, const Tensor& v,
                 const AttentionSpec& spec) {
  if (path == Path::kReference) return reference::Attention(q, k, v, spec);
  CheckBounds(spec);
  CheckTypes(q, k, v);
  AttentionSpec rest = spec;
  rest.relative_bias = Tensor();
  return Apply<AttentionFunction>(q, k, v, OrEmpty(spec.relative_bias).contiguous(),
                                  std::move(rest));
}

Tensor CachedAttention(Path path, const Tensor& q_given, const Tensor& k, const Tensor& v,
                       const AttentionSpec& spec, const std::vector<int32_t>& lengths,
                       BlockState* block) {
  if (path == Path::kReference) {
    return reference::CachedAttention(q_given, k, v, spec, lengths, block);
  }
  CheckTypes(q_given, k, v);
  const torch::NoGradGuard no_grad;
  const size_t sequences = spec.q_bounds.size() - 1;
  block->keys.resize(sequences);
  block->values.resize(sequences);
  const Tensor key_rows = k.flatten(1), value_rows = v.flatten(1);
  int32_t most_queries = 0;
  for (size_t s = 0; s < sequences; ++s) {
    const int32_t begin = spec.q_bounds[s], end = spec.q_bounds[s + 1];
    AppendRows(key_rows, begin, end, lengths[s], &block->keys[s]);
    AppendRows(value_rows, begin, end, lengths[s], &block->values[s]);
    most_queries = std::max(most_queries, end - begin);
  }
  const Tensor q = ContiguousHeads(q_given);
  const Tensor bias = OrEmpty(spec.relative_bias).contiguous();
  const Tensor out = at::empty({q.size(0), q.size(1) * q.size(2)}, q.options());
  AttentionShape shape = ShapeOf(spec, q, k, bias);
  shape.dropout = DropoutSite();
  if (most_queries == 1 || (spec.causal && most_queries <= kDecodedQueries)) {
    DecodeFromCache(spec, shape, q, lengths, *block, out);
    return out;
  }
  const Tensor log_sums = at::empty({q.size(0), q.size(1)}, FloatOptions(q));
  shape.sequences = 1;
  shape.kv = shape.d_kv;
  for (size_t s = 0; s < sequences; ++s) {
    const int32_t first = spec.q_bounds[s], queries = spec.q_bounds[s + 1] - first;
    const int32_t q_bounds[] = {0, queries}, k_bounds[] = {0, lengths[s] + queries};
    if (queries == 0) continue;
    shape.q_bounds = q_bounds;
    shape.k_bounds = k_bounds;
    Kernels().attention_forward(shape, ElementsOf(q.narrow(0, first, queries)),
                                ElementsOf(block->keys[s]), ElementsOf(block->values[s]),
                                ElementsOf(out.narrow(0, first, queries)),
                                Floats(log_sums) + first * shape.heads);
  }
  return out;
}

}  // namespace thaw
