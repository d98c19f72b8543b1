#include "worker/model/autograd_support.h"
#include "worker/model/ops.h"
#include "worker/model/reference_ops.h"

namespace thaw {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct AttentionState {
  std::vector<int32_t> q_bounds, k_bounds;
  int64_t heads;
  double scale;
  DropoutSite dropout;

  // Points into this object.
  AttentionShape Shape(int64_t width) const {
    AttentionShape shape;
    shape.q_bounds = q_bounds.data();
    shape.k_bounds = k_bounds.data();
    shape.sequences = static_cast<int32_t>(q_bounds.size()) - 1;
    shape.heads = static_cast<int32_t>(heads);
    shape.head_dim = static_cast<int32_t>(width / heads);
    shape.q_stride = shape.k_stride = width;
    shape.scale = static_cast<float>(scale);
    shape.dropout = dropout;
    return shape;
  }
};

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& q, const Tensor& k, const Tensor& v,
                        AttentionState state) {
    const Tensor out = at::empty_like(q);
    const Tensor log_sums = at::empty({q.size(0), state.heads}, q.options());
    Kernels().attention_forward(state.Shape(q.size(1)), Floats(q), Floats(k), Floats(v),
                                Floats(out), Floats(log_sums));
    context->save_for_backward({q, k, v, out, log_sums});
    Hold(context, std::move(state));
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const Tensor d = gradients[0].contiguous();
    variable_list results = {at::empty_like(q), at::empty_like(k), at::empty_like(v), Tensor()};
    Kernels().attention_backward(HeldIn<AttentionState>(context).Shape(q.size(1)), Floats(q),
                                 Floats(k), Floats(v), Floats(saved[3]), Floats(saved[4]),
                                 Floats(d), Floats(results[0]), Floats(results[1]),
                                 Floats(results[2]));
    return results;
  }
};

// What the kernels serve so far: every query sees all keys, heads are packed.
bool Served(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionSpec& spec) {
  return !spec.causal && !spec.relative_bias.defined() && k.size(1) == q.size(1) &&
         q.is_contiguous() && k.is_contiguous() && v.is_contiguous();
}

}  // namespace

Tensor Attention(Path path, const Tensor& q, const Tensor& k, const Tensor& v,
                 const AttentionSpec& spec) {
  if (path == Path::kReference || !Served(q, k, v, spec)) {
    return reference::Attention(q, k, v, spec);
  }
  const AttentionState state{spec.q_bounds, spec.k_bounds, q.size(1), spec.scale, spec.dropout};
  return AttentionFunction::apply(q.flatten(1), k.flatten(1), v.flatten(1), state);
}

Tensor CachedAttention(Path path, const Tensor& q, const Tensor& k, const Tensor& v,
                       const AttentionSpec& spec, const std::vector<int32_t>& lengths,
                       BlockState* block) {
  return reference::CachedAttention(q, k, v, spec, lengths, block);
}

Tensor Rotate(Path path, const Tensor& x, const Tensor& positions, const Tensor& cosines,
              const Tensor& sines) {
  return reference::Rotate(x, positions, cosines, sines);
}

}  // namespace thaw
