// How probable given tokens are.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "worker/model/model.h"

namespace thaw {

// One row: `ids` from index `first` on are scored, given those before them and, of an
// encoder-decoder, `source`. Without a source the first token of all has nothing before it and is
// never scored.
struct ScoredRow {
  std::vector<int32_t> source;
  std::vector<int32_t> ids;
  int32_t first = 0;

  // The first index that is scored.
  int32_t Begin() const { return source.empty() && first < 1 ? 1 : first; }
  int64_t scored() const;
};

// The log-probability (natural) of every scored token of every row, rows of similar length together
// in batches of at most `tokens_per_batch`. `decoder_start` is the first token that a decoder
// reads; -1 for a model without encoder. Before each batch `go_on` is given the number of rows
// done; nothing comes back once it returns false. What is negative infinity the model rules out;
// NaN is of a model whose output is no number.
std::optional<std::vector<std::vector<float>>> Score(
    Model* model, std::span<const ScoredRow> rows, int32_t decoder_start, int64_t tokens_per_batch,
    const std::function<bool(int64_t rows_done)>& go_on);

}  // namespace thaw
