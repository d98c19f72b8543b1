// Sequences laid one after the other without padding: what a forward pass takes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/data/tokenized_dataset.h"

namespace thaw {

// `n` sequences, `total` tokens. Sequence i owns tokens [cu_seqlens[i], cu_seqlens[i + 1]).
struct PackedBatch {
  std::vector<int64_t> token_ids;       // [total]
  std::vector<int64_t> token_type_ids;  // [total]
  std::vector<int32_t> cu_seqlens;      // [n + 1], begins with 0
  std::vector<int64_t> labels;          // [n], or empty when the dataset has none
  std::vector<int64_t> rows;            // [n], of the dataset
  int32_t longest = 0;                  // tokens of the longest sequence

  int64_t sequences() const { return static_cast<int64_t>(rows.size()); }
  int64_t tokens() const { return static_cast<int64_t>(token_ids.size()); }
};

PackedBatch Pack(const TokenizedDataset& dataset, std::span<const int64_t> rows);

}  // namespace thaw
