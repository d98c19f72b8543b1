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
  std::vector<int64_t> rows;            // [n], of the dataset
  int32_t longest = 0;                  // tokens of the longest sequence

  // Answers of whole sequences, whichever the dataset has.
  std::vector<int64_t> labels;  // [n]
  std::vector<float> outputs;   // [n, classes], 1 for every label that is set; or numbers, [n, 1]

  // Of a decoder, packed likewise: what it reads, which is the target shifted right behind the
  // dataset's decoder_start.
  std::vector<int64_t> target_ids;
  std::vector<int32_t> target_bounds;  // [n + 1], or empty

  // Answers token by token: row loss_rows[u] of the packed rows (of the decoder's, if there are
  // any) is to predict token next_ids[u], which belongs to the same sequence or, with
  // TokenizeOptions::foretells_next, begins the row behind it. Ascending.
  std::vector<int64_t> loss_rows;
  std::vector<int64_t> next_ids;

  int64_t sequences() const { return static_cast<int64_t>(rows.size()); }
  int64_t tokens() const { return static_cast<int64_t>(token_ids.size()); }
};

PackedBatch Pack(const TokenizedDataset& dataset, std::span<const int64_t> rows);

}  // namespace thaw
