#include "worker/data/dataset_builder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace thaw {
namespace {

// Examples tokenized at a time: enough to keep threads busy, little beside what they become.
constexpr size_t kBlockRows = 1024;
constexpr int64_t kBlockBytes = 16 << 20;

int64_t BytesOf(const Example& example) {
  size_t bytes = example.text.size() + example.text_pair.size() + example.answer.size();
  for (const Turn& turn : example.turns) bytes += turn.content.size();
  return static_cast<int64_t>(bytes);
}

}  // namespace

DatasetBuilder::DatasetBuilder(const Tokenizer& tokenizer, std::span<const std::string> label_names,
                               const TokenizeOptions& options)
    : tokenizer_(tokenizer), options_(options) {
  for (const std::string& name : label_names) {
    classes_.emplace(name, static_cast<int32_t>(classes_.size()));
  }
  dataset_.classes = static_cast<int32_t>(classes_.size());
  dataset_.decoder_start = options.decoder_start;
}

absl::Status DatasetBuilder::Add(Example example) {
  block_bytes_ += BytesOf(example);
  block_.push_back(std::move(example));
  if (block_.size() < kBlockRows && block_bytes_ < kBlockBytes) return absl::OkStatus();
  return AddBlock();
}

absl::StatusOr<TokenizedDataset> DatasetBuilder::Finish() {
  THAW_RETURN_IF_ERROR(AddBlock());
  if (options_.kind == RowKind::kContiguous) EndStreamRow(/*followed=*/false);
  return std::move(dataset_);
}

absl::Status DatasetBuilder::AddBlock() {
  THAW_ASSIGN_OR_RETURN(const std::vector<ExampleRow> rows,
                        EncodeExamples(block_, tokenizer_, options_));
  for (const ExampleRow& row : rows) {
    if (row.continues && !(&row - 1)->continues) ++dataset_.split_texts;
    THAW_RETURN_IF_ERROR(AddRow(block_[row.example], row));
  }
  block_.clear();
  block_bytes_ = 0;
  if (BytesHeld() > options_.max_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the first ", dataset_.rows(), " tokenized rows take more than ", options_.max_bytes,
        " bytes of memory; use fewer examples or a smaller max_length"));
  }
  return absl::OkStatus();
}

absl::Status DatasetBuilder::AddRow(const Example& example, const ExampleRow& row) {
  if (row.truncated && options_.long_rows == LongRows::kDrop) {
    ++dataset_.dropped_rows;
    if (dataset_.first_dropped_line == 0) dataset_.first_dropped_line = example.line;
    return absl::OkStatus();
  }
  dataset_.truncated_rows += row.truncated;
  switch (options_.kind) {
    case RowKind::kContiguous:
      AddStream(row.ids, example.line);
      return absl::OkStatus();
    case RowKind::kText:
      THAW_RETURN_IF_ERROR(AddLabels(example));
      break;
    case RowKind::kTarget:
      dataset_.targets.Append(row.target);
      break;
    default:
      if (row.answers.empty()) {
        ++dataset_.skipped_rows;
        if (dataset_.first_skipped_line == 0) dataset_.first_skipped_line = example.line;
        return absl::OkStatus();
      }
      dataset_.answers.Append(row.answers);
  }
  if (row.ids.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("line ", example.line, ": the text has no tokens"));
  }
  AddTokens(row);
  dataset_.lines.push_back(example.line);
  if (static_cast<int64_t>(dataset_.expected.size()) < options_.keep_answers) {
    dataset_.expected.push_back(example.answer);
    expected_bytes_ += static_cast<int64_t>(example.answer.size());
  }
  return absl::OkStatus();
}

absl::Status DatasetBuilder::AddLabels(const Example& example) {
  switch (options_.form) {
    case ExampleForm::kNumber:
      dataset_.numbers.push_back(static_cast<float>(example.number));
      return absl::OkStatus();
    case ExampleForm::kLabel: {
      if (classes_.empty()) return absl::OkStatus();
      THAW_ASSIGN_OR_RETURN(const int32_t id, ClassOf(example.label, example.line));
      dataset_.labels.push_back(id);
      return absl::OkStatus();
    }
    case ExampleForm::kLabels: {
      if (classes_.empty()) return absl::OkStatus();
      std::vector<int32_t> ids;
      for (const std::string& label : example.labels) {
        THAW_ASSIGN_OR_RETURN(const int32_t id, ClassOf(label, example.line));
        ids.push_back(id);
      }
      std::sort(ids.begin(), ids.end());
      dataset_.label_sets.Append(ids);
      return absl::OkStatus();
    }
    default:
      return absl::OkStatus();
  }
}

absl::StatusOr<int32_t> DatasetBuilder::ClassOf(const std::string& label, int64_t line) const {
  const auto id = classes_.find(label);
  if (id != classes_.end()) return id->second;
  return absl::FailedPreconditionError(absl::StrCat("line ", line, ": label \"", label,
                                                    "\" is not one of the model's ",
                                                    classes_.size(), " labels"));
}

void DatasetBuilder::AddTokens(const ExampleRow& row) {
  TokenizedDataset& data = dataset_;
  const bool has_second =
      std::any_of(row.type_ids.begin(), row.type_ids.end(), [](int32_t type) { return type != 0; });
  if (has_second && data.type_ids.empty()) data.type_ids.resize(data.token_ids.size());
  data.token_ids.insert(data.token_ids.end(), row.ids.begin(), row.ids.end());
  if (has_second || !data.type_ids.empty()) {
    data.type_ids.insert(data.type_ids.end(), row.type_ids.begin(), row.type_ids.end());
  }
  data.offsets.push_back(static_cast<int64_t>(data.token_ids.size()));
  data.longest_row = std::max(data.longest_row, static_cast<int32_t>(row.ids.size()));
}

void DatasetBuilder::AddStream(std::span<const int32_t> ids, int64_t line) {
  TokenizedDataset& data = dataset_;
  while (!ids.empty()) {
    auto begun = static_cast<int64_t>(data.token_ids.size()) - data.offsets.back();
    if (begun == options_.max_length) {
      EndStreamRow(/*followed=*/true);
      begun = static_cast<int64_t>(data.token_ids.size()) - data.offsets.back();
    }
    if (begun == 0) data.lines.push_back(line);
    const size_t taken =
        std::min(ids.size(), static_cast<size_t>(int64_t{options_.max_length} - begun));
    data.token_ids.insert(data.token_ids.end(), ids.begin(),
                          ids.begin() + static_cast<std::ptrdiff_t>(taken));
    ids = ids.subspan(taken);
  }
}

void DatasetBuilder::EndStreamRow(bool followed) {
  TokenizedDataset& data = dataset_;
  const auto length =
      static_cast<int32_t>(static_cast<int64_t>(data.token_ids.size()) - data.offsets.back());
  if (length == 0) return;
  const TokenSpan all = {1, length + (followed && options_.foretells_next)};
  if (all.begin == all.end) {
    // Nothing to predict: the last token of all texts. The row before it may foretell it.
    if (!options_.foretells_next) data.token_ids.pop_back();
    data.lines.pop_back();
    return;
  }
  data.answers.Append({&all, 1});
  data.offsets.push_back(static_cast<int64_t>(data.token_ids.size()));
  data.longest_row = std::max(data.longest_row, length);
}

int64_t DatasetBuilder::BytesHeld() const {
  const TokenizedDataset& data = dataset_;
  return static_cast<int64_t>(
             data.token_ids.capacity() * sizeof(int32_t) + data.type_ids.capacity() +
             data.offsets.capacity() * sizeof(int64_t) + data.labels.capacity() * sizeof(int32_t) +
             data.numbers.capacity() * sizeof(float) + data.lines.capacity() * sizeof(int64_t)) +
         data.label_sets.BytesHeld() + data.answers.BytesHeld() + data.targets.BytesHeld() +
         expected_bytes_;
}

}  // namespace thaw
