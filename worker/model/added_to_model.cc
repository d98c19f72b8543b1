#include "worker/model/added_to_model.h"

namespace thaw {
namespace {

using torch::Tensor;

Tensor ChangeOf(Path path, const Bottleneck& bottleneck, const Tensor& rows) {
  const auto linear = [path](const Tensor& x, const Parameter* weight, const Parameter* bias) {
    return Linear(path, x, {weight->tensor, bias->tensor, false, weight->half});
  };
  const Tensor inner =
      Activate(path, bottleneck.activation, linear(rows, bottleneck.down, bottleneck.down_bias));
  const Tensor change = linear(inner, bottleneck.up, bottleneck.up_bias);
  return bottleneck.scale == 1 ? change : change * bottleneck.scale;
}

}  // namespace

Tensor WithBottleneck(Path path, const std::optional<Bottleneck>& bottleneck, const Tensor& x,
                      const Tensor& bias) {
  if (!bottleneck) return x;
  return x + ChangeOf(path, *bottleneck, bias.defined() ? (x + bias).to(x.scalar_type()) : x);
}

Tensor AfterFeedForward(Path path, const AddedToBlock* block, const Tensor& in, const Tensor& out,
                        const Tensor& bias) {
  if (block == nullptr) return out;
  if (block->beside_feed_forward) return out + ChangeOf(path, *block->beside_feed_forward, in);
  return WithBottleneck(path, block->after_feed_forward, out, bias);
}

Tensor AfterAttention(Path path, const AddedToBlock* block, const Tensor& out, const Tensor& bias) {
  return block == nullptr ? out : WithBottleneck(path, block->after_attention, out, bias);
}

}  // namespace thaw
