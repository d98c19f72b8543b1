#include "worker/model/autograd_support.h"
#include "worker/model/ops.h"
#include "worker/model/packed_rows.h"
#include "worker/model/reference_ops.h"

namespace thaw {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RotateFunction : torch::autograd::Function<RotateFunction> {
  static Tensor Apply(const Tensor& x_given, const Tensor& positions, const Tensor& cosines,
                      const Tensor& sines, bool backwards) {
    const Tensor x = x_given.stride(2) == 1 ? x_given : x_given.contiguous();
    const Tensor y = at::empty(x.sizes(), x.options());
    RotaryShape shape;
    shape.rows = x.size(0);
    shape.heads = x.size(1);
    shape.head_dim = x.size(2);
    shape.half = cosines.size(1);
    shape.cosines = Floats(cosines);
    shape.sines = Floats(sines);
    shape.positions = positions.data_ptr<int64_t>();
    shape.x = {x.stride(0), x.stride(1)};
    shape.y = {y.stride(0), y.stride(1)};
    shape.backwards = backwards;
    Kernels().rotate(shape, ElementsOf(x), ElementsOf(y));
    return y;
  }

  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& positions,
                        const Tensor& cosines, const Tensor& sines) {
    context->save_for_backward({positions, cosines, sines});
    return Apply(x, positions, cosines, sines, false);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    return {Apply(gradients[0], saved[0], saved[1], saved[2], true), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor Rotate(Path path, const Tensor& x, const Tensor& positions, const Tensor& cosines,
              const Tensor& sines) {
  if (path == Path::kReference) return reference::Rotate(x, positions, cosines, sines);
  CheckIds(positions, cosines.size(0), "positions");
  return Apply<RotateFunction>(x, positions.contiguous(), cosines.contiguous(), sines.contiguous());
}

}  // namespace thaw
