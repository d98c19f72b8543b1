// Puts rows into a TokenizedDataset, block by block.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "worker/data/tokenized_dataset.h"

namespace thaw {

// Used by one thread; `tokenizer` and `options` outlive it.
class DatasetBuilder {
 public:
  DatasetBuilder(const Tokenizer& tokenizer, std::span<const std::string> label_names,
                 const TokenizeOptions& options);

  // Takes the example; once enough have come together they are tokenized. Errors are those of
  // TokenizeDataset.
  absl::Status Add(Example example);
  absl::StatusOr<TokenizedDataset> Finish();

 private:
  absl::Status AddBlock();
  absl::Status AddRow(const Example& example, const ExampleRow& row);
  absl::Status AddLabels(const Example& example);
  absl::StatusOr<int32_t> ClassOf(const std::string& label, int64_t line) const;
  void AddTokens(const ExampleRow& row);
  // kContiguous: the ids go on where the ones before them ended.
  void AddStream(std::span<const int32_t> ids, int64_t line);
  // `followed`: more tokens come behind the row.
  void EndStreamRow(bool followed);
  int64_t BytesHeld() const;

  const Tokenizer& tokenizer_;
  const TokenizeOptions& options_;
  std::unordered_map<std::string, int32_t> classes_;
  TokenizedDataset dataset_;
  std::vector<Example> block_;
  int64_t block_bytes_ = 0;
  int64_t expected_bytes_ = 0;  // of dataset_.expected
};

}  // namespace thaw
