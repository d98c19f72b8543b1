#include <cmath>

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
    shape.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
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

}  // namespace

Tensor Attention(Path path, const Tensor& q, const Tensor& k, const Tensor& v,
                 const std::vector<int32_t>& q_bounds, const std::vector<int32_t>& k_bounds,
                 int64_t heads, const DropoutSite& dropout) {
  if (path == Path::kReference) {
    return reference::Attention(q, k, v, q_bounds, k_bounds, heads, dropout);
  }
  return AttentionFunction::apply(q, k, v, AttentionState{q_bounds, k_bounds, heads, dropout});
}

}  // namespace thaw
