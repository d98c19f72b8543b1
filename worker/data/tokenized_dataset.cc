#include "worker/data/tokenized_dataset.h"

#include <string>
#include <utility>

#include "common/base/status.h"
#include "worker/data/dataset_builder.h"

namespace thaw {

int64_t TokenizedDataset::loss_units(int64_t row) const {
  if (!targets.empty()) return static_cast<int64_t>(targets[row].size());
  if (answers.empty()) return 1;
  int64_t units = 0;
  for (const TokenSpan& span : answers[row]) units += span.end - span.begin;
  return units;
}

absl::StatusOr<TokenizedDataset> TokenizeDataset(DatasetReader* reader, const Tokenizer& tokenizer,
                                                 std::span<const std::string> label_names,
                                                 const TokenizeOptions& options) {
  DatasetBuilder builder(tokenizer, label_names, options);
  while (true) {
    Example example;
    THAW_ASSIGN_OR_RETURN(const bool more, reader->Next(&example));
    if (!more) return builder.Finish();
    if (options.keep && !options.keep(example)) continue;
    THAW_RETURN_IF_ERROR(builder.Add(std::move(example)));
  }
}

absl::StatusOr<TokenizedDataset> TokenizeTexts(std::span<const TextInput> texts,
                                               const Tokenizer& tokenizer,
                                               const TokenizeOptions& options) {
  DatasetBuilder builder(tokenizer, {}, options);
  for (size_t i = 0; i < texts.size(); ++i) {
    Example example{.text = std::string(texts[i].text), .line = static_cast<int64_t>(i) + 1};
    if (texts[i].pair) example.text_pair = std::string(*texts[i].pair);
    THAW_RETURN_IF_ERROR(builder.Add(std::move(example)));
  }
  return builder.Finish();
}

}  // namespace thaw
