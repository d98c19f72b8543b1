// What a model remembers of sequences between calls, so that their next tokens can be added:
// generation, and language modeling that carries an LSTM's state from one row to the next.
#pragma once

#include <cstdint>
#include <vector>

#include "torch/types.h"

namespace thaw {

// Of one block. A family fills what it needs and leaves the rest empty.
struct BlockState {
  // Self-attention, an entry a sequence: [capacity, kv heads * head_dim], of which the first
  // SequenceState::lengths() rows are filled. Keys are as attention reads them (rotated). Append
  // grows them.
  std::vector<torch::Tensor> keys, values;
  // Attention to an encoder's output: [rows, kv heads * head_dim] a sequence.
  std::vector<torch::Tensor> cross_keys, cross_values;
  // An LSTM's h and c: [sequences, width].
  torch::Tensor hidden, cell;
};

// Belongs to one model and one set of sequences, in the order of the batch that began it. Used by
// one thread, without autograd (an LSTM's state is detached between calls).
class SequenceState {
 public:
  SequenceState(int blocks, int64_t sequences)
      : blocks_(static_cast<size_t>(blocks)), lengths_(static_cast<size_t>(sequences), 0) {}

  int64_t sequences() const { return static_cast<int64_t>(lengths_.size()); }
  // Tokens seen of each sequence before the present call: what positions go on from.
  const std::vector<int32_t>& lengths() const { return lengths_; }
  BlockState& block(int index) { return blocks_[static_cast<size_t>(index)]; }

  // After all blocks have seen a batch with these bounds: its tokens count as seen.
  void Advance(const std::vector<int32_t>& cu_seqlens);
  // Goes on with these sequences alone, in this order; indices may repeat.
  void Keep(const std::vector<int64_t>& sequences);
  // Takes in the sequences of `other`, of the same model, behind its own.
  void Join(SequenceState other);
  // Memory of all that is kept, room for more tokens included.
  int64_t bytes() const;

 private:
  std::vector<BlockState> blocks_;
  std::vector<int32_t> lengths_;
};

// Puts the rows of sequence `s` of `rows` ([total rows, width], bounds as in Packed) behind the
// first `length` of `buffer`, which is replaced by a larger one when they do not fit (or when it is
// undefined).
void AppendRows(const torch::Tensor& rows, int32_t begin, int32_t end, int32_t length,
                torch::Tensor* buffer);

}  // namespace thaw
