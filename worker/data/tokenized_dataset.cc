#include "worker/data/tokenized_dataset.h"

#include <algorithm>
#include <numeric>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace thaw {
namespace {

// Examples tokenized at a time: enough to keep threads busy, little beside what they become.
constexpr size_t kBlockRows = 1024;
constexpr int64_t kBlockBytes = 16 << 20;

void AppendRow(const Encoding& encoding, TokenizedDataset* dataset) {
  const bool has_second = std::any_of(encoding.type_ids.begin(), encoding.type_ids.end(),
                                      [](int32_t type) { return type != 0; });
  if (has_second && dataset->type_ids.empty()) dataset->type_ids.resize(dataset->token_ids.size());
  dataset->token_ids.insert(dataset->token_ids.end(), encoding.ids.begin(), encoding.ids.end());
  if (has_second || !dataset->type_ids.empty()) {
    dataset->type_ids.insert(dataset->type_ids.end(), encoding.type_ids.begin(),
                             encoding.type_ids.end());
  }
  dataset->offsets.push_back(static_cast<int64_t>(dataset->token_ids.size()));
  dataset->truncated_rows += encoding.truncated;
  dataset->longest_row = std::max(dataset->longest_row, static_cast<int32_t>(encoding.ids.size()));
}

int64_t BytesHeld(const TokenizedDataset& dataset) {
  return static_cast<int64_t>(
      dataset.token_ids.capacity() * sizeof(int32_t) + dataset.type_ids.capacity() +
      dataset.offsets.capacity() * sizeof(int64_t) + dataset.labels.capacity() * sizeof(int32_t) +
      dataset.lines.capacity() * sizeof(int64_t));
}

// Appends a row for each text; dataset->lines already holds their lines.
absl::Status AppendTexts(std::span<const TextInput> texts, const Tokenizer& tokenizer,
                         const TokenizeOptions& options, TokenizedDataset* dataset) {
  THAW_ASSIGN_OR_RETURN(
      const std::vector<Encoding> encodings,
      tokenizer.EncodeBatch(texts, {.max_length = options.max_length}, options.threads));
  for (const Encoding& encoding : encodings) {
    if (encoding.ids.empty()) {
      return absl::FailedPreconditionError(
          absl::StrCat("line ", dataset->lines[static_cast<size_t>(dataset->rows())],
                       ": the text has no tokens"));
    }
    AppendRow(encoding, dataset);
  }
  if (BytesHeld(*dataset) > options.max_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the first ", dataset->rows(), " tokenized examples take more than ", options.max_bytes,
        " bytes of memory; use fewer examples or a smaller max_length"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizedDataset> TokenizeDataset(DatasetReader* reader, const Tokenizer& tokenizer,
                                                 std::span<const std::string> label_names,
                                                 const TokenizeOptions& options) {
  std::unordered_map<std::string, int32_t> ids;
  for (const std::string& name : label_names) ids.emplace(name, static_cast<int32_t>(ids.size()));
  TokenizedDataset dataset;
  std::vector<Example> block;
  int64_t block_bytes = 0;
  bool more = true;
  while (more) {
    Example example;
    THAW_ASSIGN_OR_RETURN(more, reader->Next(&example));
    if (more && (!options.keep || options.keep(example))) {
      if (!ids.empty()) {
        const auto id = ids.find(example.label);
        if (id == ids.end()) {
          return absl::FailedPreconditionError(
              absl::StrCat("line ", example.line, ": label \"", example.label,
                           "\" is not one of the model's ", ids.size(), " labels"));
        }
        dataset.labels.push_back(id->second);
      }
      dataset.lines.push_back(example.line);
      block_bytes += static_cast<int64_t>(example.text.size() + example.text_pair.size());
      block.push_back(std::move(example));
    }
    if (more && block.size() < kBlockRows && block_bytes < kBlockBytes) continue;
    std::vector<TextInput> texts;
    texts.reserve(block.size());
    for (const Example& e : block) {
      texts.push_back({e.text});
      if (!e.text_pair.empty()) texts.back().pair = e.text_pair;
    }
    THAW_RETURN_IF_ERROR(AppendTexts(texts, tokenizer, options, &dataset));
    block.clear();
    block_bytes = 0;
  }
  return dataset;
}

absl::StatusOr<TokenizedDataset> TokenizeTexts(std::span<const TextInput> texts,
                                               const Tokenizer& tokenizer,
                                               const TokenizeOptions& options) {
  TokenizedDataset dataset;
  dataset.lines.resize(texts.size());
  std::iota(dataset.lines.begin(), dataset.lines.end(), 1);
  for (size_t begin = 0; begin < texts.size(); begin += kBlockRows) {
    const size_t count = std::min(kBlockRows, texts.size() - begin);
    THAW_RETURN_IF_ERROR(AppendTexts(texts.subspan(begin, count), tokenizer, options, &dataset));
  }
  return dataset;
}

}  // namespace thaw
