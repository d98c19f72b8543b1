// A dataset after tokenization: all token ids in one array, held in memory for the whole attempt.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/dataset/dataset_reader.h"
#include "worker/text/tokenizer.h"

namespace thaw {

// Rows are examples, numbered from 0 in the order they were read. Read-only once built.
struct TokenizedDataset {
  std::vector<int32_t> token_ids;      // of all rows, one after the other
  std::vector<uint8_t> type_ids;       // like token_ids; empty when all are 0
  std::vector<int64_t> offsets = {0};  // rows + 1: row r owns [offsets[r], offsets[r + 1])
  std::vector<int32_t> labels;  // class id of each row; empty when the examples carry no label
  std::vector<int64_t> lines;   // line of each row in its file; of inline texts 1, 2, …
  int64_t truncated_rows = 0;
  int32_t longest_row = 0;  // tokens

  int64_t rows() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t tokens() const { return offsets.back(); }
  int32_t length(int64_t row) const {
    return static_cast<int32_t>(offsets[row + 1] - offsets[row]);
  }
  std::span<const int32_t> row(int64_t r) const {
    return {token_ids.data() + offsets[r], static_cast<size_t>(length(r))};
  }
};

struct TokenizeOptions {
  int32_t max_length = 512;  // tokens of one row, special tokens included
  int threads = 1;
  int64_t max_bytes = 4LL << 30;  // memory that the result may take; beyond it RESOURCE_EXHAUSTED
  std::function<bool(const Example&)> keep = {};  // which examples become rows; empty: all
};

// Reads `reader` to its end. `label_names` is the model's id2label in id order; with none labels
// are ignored. An example with another label, or a text that gives no tokens, is
// FAILED_PRECONDITION naming the line. The result does not depend on `threads`.
absl::StatusOr<TokenizedDataset> TokenizeDataset(DatasetReader* reader, const Tokenizer& tokenizer,
                                                 std::span<const std::string> label_names,
                                                 const TokenizeOptions& options);

// The same for texts given inline; rows have no labels.
absl::StatusOr<TokenizedDataset> TokenizeTexts(std::span<const TextInput> texts,
                                               const Tokenizer& tokenizer,
                                               const TokenizeOptions& options);

}  // namespace thaw
