// What an added part puts beside a model's layers, rather than into its linear ones: rows before
// the input, keys and values before every block's, small feed-forward layers in the blocks
// (docs/added_parts.md).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "worker/model/ops.h"
#include "worker/model/parameters.h"

namespace thaw {

// rows -> scale up(activation(down(rows))), all with bias.
struct Bottleneck {
  const Parameter *down = nullptr, *down_bias = nullptr;  // [width, hidden], [width]
  const Parameter *up = nullptr, *up_bias = nullptr;      // [hidden, width], [hidden]
  ActivationKind activation = ActivationKind::kRelu;
  double scale = 1;
};

struct AddedToBlock {
  // Before the keys and values of each sequence's self-attention: [virtual tokens, 2 * kv heads *
  // head_dim], keys, then values, as attention reads them.
  const Parameter* prefix = nullptr;
  // Their changes are of what each of these gives, added to it before dropout and residual.
  std::optional<Bottleneck> after_attention, after_cross_attention, after_feed_forward;
  // Its change is of what the feed-forward layer takes, added to what that gives.
  std::optional<Bottleneck> beside_feed_forward;
};

struct AddedToModel {
  // How many positions a prompt or a prefix takes before the first token of every sequence.
  int32_t virtual_tokens = 0;
  // Before the embedded rows of each sequence (of the encoder's, where there are two): its first
  // `virtual_tokens` rows, [.., hidden].
  const Parameter* prompt = nullptr;
  std::vector<AddedToBlock> blocks;  // as many as the model's, or none

  const AddedToBlock* Of(int block) const {
    return blocks.empty() ? nullptr : &blocks[static_cast<size_t>(block)];
  }
  // The virtual tokens are keys, not rows.
  int32_t prefix_length() const { return prompt == nullptr ? virtual_tokens : 0; }
};

// x with the change added. `bias`, which may be undefined, belongs to x but is added to it later:
// only the bottleneck's input has it already, so that a zero change leaves the same bits. x itself
// where `bottleneck` is empty.
torch::Tensor WithBottleneck(Path path, const std::optional<Bottleneck>& bottleneck,
                             const torch::Tensor& x, const torch::Tensor& bias);

// What the feed-forward layer gives of `in`, without `bias`, with what is added to `block`, which
// may be null.
torch::Tensor AfterFeedForward(Path path, const AddedToBlock* block, const torch::Tensor& in,
                               const torch::Tensor& out, const torch::Tensor& bias);
// Likewise what self-attention gives.
torch::Tensor AfterAttention(Path path, const AddedToBlock* block, const torch::Tensor& out,
                             const torch::Tensor& bias);

}  // namespace thaw
