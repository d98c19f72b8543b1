// A dataset after tokenization: all token ids in one array, held in memory for the whole attempt.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/dataset/dataset_reader.h"
#include "worker/data/example_rows.h"
#include "worker/data/row_lists.h"
#include "worker/text/tokenizer.h"

namespace thaw {

// Rows are numbered from 0 in the order they were read. An example is a row, but for kContiguous,
// where max_length tokens of the joined texts are. Read-only once built.
struct TokenizedDataset {
  // Of all rows, one after the other; with TokenizeOptions::foretells_next perhaps one more, which
  // the last row foretells.
  std::vector<int32_t> token_ids;
  std::vector<uint8_t> type_ids;       // like token_ids; empty when all are 0
  std::vector<int64_t> offsets = {0};  // rows + 1: row r owns [offsets[r], offsets[r + 1])

  // What the rows are to be answered with, by the form of the examples; the others are empty.
  std::vector<int32_t> labels;   // a class id a row
  RowLists<int32_t> label_sets;  // any number of class ids a row, ascending
  std::vector<float> numbers;    // a number a row
  // Which tokens of a row carry loss; never the first one. With TokenizeOptions::foretells_next
  // also the one behind its last, with which the next row begins.
  RowLists<TokenSpan> answers;
  RowLists<int32_t> targets;   // what a decoder is to write
  int32_t classes = 0;         // of labels and label_sets
  int32_t decoder_start = -1;  // what a decoder reads before its target

  // The answers in words of the first rows, as many as TokenizeOptions::keep_answers.
  std::vector<std::string> expected;

  std::vector<int64_t> lines;  // line of each row's beginning in its file; of inline texts 1, 2, …
  int64_t truncated_rows = 0;
  int64_t skipped_rows = 0;        // without a loss unit: they are not among the rows
  int64_t first_skipped_line = 0;  // 0: none
  int64_t dropped_rows = 0;        // too long, with LongRows::kDrop: they are not among the rows
  int64_t first_dropped_line = 0;  // 0: none
  int64_t split_texts = 0;         // too long, with LongRows::kSplit: they are several rows
  int32_t longest_row = 0;         // tokens

  int64_t rows() const { return static_cast<int64_t>(offsets.size()) - 1; }
  // Targets included.
  int64_t tokens() const { return offsets.back() + static_cast<int64_t>(targets.values.size()); }
  int32_t length(int64_t row) const {
    return static_cast<int32_t>(offsets[row + 1] - offsets[row]);
  }
  // What a row adds to a batch: its tokens and those of its target.
  int64_t size(int64_t row) const {
    return length(row) + (targets.empty() ? 0 : static_cast<int64_t>(targets[row].size()));
  }
  std::span<const int32_t> row(int64_t r) const {
    return {token_ids.data() + offsets[r], static_cast<size_t>(length(r))};
  }
  // How much the row weighs in a loss: the tokens that carry it, or 1.
  int64_t loss_units(int64_t row) const;
};

// Reads `reader` to its end. `label_names` are the classes of examples with one label or several,
// in id order; with none labels are ignored. An example with another label, or a text that gives no
// tokens, is FAILED_PRECONDITION naming the line. The result does not depend on `threads`.
absl::StatusOr<TokenizedDataset> TokenizeDataset(DatasetReader* reader, const Tokenizer& tokenizer,
                                                 std::span<const std::string> label_names,
                                                 const TokenizeOptions& options);

// The same for texts given inline; rows have no labels.
absl::StatusOr<TokenizedDataset> TokenizeTexts(std::span<const TextInput> texts,
                                               const Tokenizer& tokenizer,
                                               const TokenizeOptions& options);

}  // namespace thaw
