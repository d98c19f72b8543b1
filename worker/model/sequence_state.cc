#include "worker/model/sequence_state.h"

#include <algorithm>
#include <utility>

namespace thaw {

void SequenceState::Advance(const std::vector<int32_t>& cu_seqlens) {
  for (size_t s = 0; s < lengths_.size(); ++s) lengths_[s] += cu_seqlens[s + 1] - cu_seqlens[s];
}

void SequenceState::Keep(const std::vector<int64_t>& sequences) {
  // A sequence that occurs twice must not append into one buffer twice.
  std::vector<bool> used(lengths_.size());
  std::vector<bool> copies;
  for (const int64_t s : sequences) {
    copies.push_back(used[static_cast<size_t>(s)]);
    used[static_cast<size_t>(s)] = true;
  }
  const auto keep = [&](std::vector<torch::Tensor>& tensors) {
    if (tensors.empty()) return;
    std::vector<torch::Tensor> kept;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const torch::Tensor& tensor = tensors[static_cast<size_t>(sequences[i])];
      kept.push_back(copies[i] && tensor.defined() ? tensor.clone() : tensor);
    }
    tensors = std::move(kept);
  };
  for (BlockState& block : blocks_) {
    for (auto* tensors : {&block.keys, &block.values, &block.cross_keys, &block.cross_values}) {
      keep(*tensors);
    }
    for (torch::Tensor* rows : {&block.hidden, &block.cell}) {
      if (rows->defined()) {
        *rows = rows->index_select(0, torch::tensor(sequences, torch::kInt64).to(rows->device()));
      }
    }
  }
  std::vector<int32_t> lengths;
  for (const int64_t s : sequences) lengths.push_back(lengths_[static_cast<size_t>(s)]);
  lengths_ = std::move(lengths);
}

void SequenceState::Join(SequenceState other) {
  for (size_t b = 0; b < blocks_.size(); ++b) {
    BlockState &ours = blocks_[b], &theirs = other.blocks_[b];
    for (auto tensors : {&BlockState::keys, &BlockState::values, &BlockState::cross_keys,
                         &BlockState::cross_values}) {
      (ours.*tensors)
          .insert((ours.*tensors).end(), (theirs.*tensors).begin(), (theirs.*tensors).end());
    }
    for (auto rows : {&BlockState::hidden, &BlockState::cell}) {
      if ((ours.*rows).defined()) ours.*rows = at::cat({ours.*rows, theirs.*rows});
    }
  }
  lengths_.insert(lengths_.end(), other.lengths_.begin(), other.lengths_.end());
}

int64_t SequenceState::bytes() const {
  int64_t bytes = 0;
  const auto add = [&bytes](const torch::Tensor& tensor) {
    if (tensor.defined()) bytes += static_cast<int64_t>(tensor.nbytes());
  };
  for (const BlockState& block : blocks_) {
    for (const auto* tensors :
         {&block.keys, &block.values, &block.cross_keys, &block.cross_values}) {
      for (const torch::Tensor& tensor : *tensors) add(tensor);
    }
    add(block.hidden);
    add(block.cell);
  }
  return bytes;
}

void AppendRows(const torch::Tensor& rows, int32_t begin, int32_t end, int32_t length,
                torch::Tensor* buffer) {
  constexpr int64_t kLeastCapacity = 64;
  const int64_t needed = length + (end - begin);
  if (!buffer->defined() || buffer->size(0) < needed) {
    const int64_t capacity = std::max(kLeastCapacity, needed + needed / 2);
    torch::Tensor larger = at::empty({capacity, rows.size(1)}, rows.options());
    if (length > 0) larger.narrow(0, 0, length).copy_(buffer->narrow(0, 0, length));
    *buffer = std::move(larger);
  }
  buffer->narrow(0, length, end - begin).copy_(rows.narrow(0, begin, end - begin));
}

}  // namespace thaw
