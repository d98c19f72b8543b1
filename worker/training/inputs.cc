#include "worker/training/inputs.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "common/dataset/dataset_columns.h"

namespace thaw {
namespace {

constexpr int32_t kDefaultMaxLength = 256;
constexpr int64_t kTickRows = 1000;

}  // namespace

std::string OrDefault(const std::string& column, const char* otherwise) {
  return column.empty() ? otherwise : column;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir,
                                                         const ModelConfig& config) {
  THAW_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::Load(model_dir + "/tokenizer.json"));
  if (tokenizer->id_limit() > config.vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("the model's tokenizer.json has token ids up to ", tokenizer->id_limit() - 1,
                     ", but its embedding table only ", config.vocab_size,
                     " rows: upload the tokenizer that belongs to the model"));
  }
  return tokenizer;
}

int32_t MaxLength(int32_t asked, const ModelConfig& config) {
  return static_cast<int32_t>(
      std::min<int64_t>(asked == 0 ? kDefaultMaxLength : asked, config.max_positions));
}

absl::StatusOr<DatasetPath> FindDataset(const std::string& directory, const v1::Artifact& dataset) {
  THAW_ASSIGN_OR_RETURN(const std::vector<FileEntry> files, ListFiles(directory));
  std::vector<std::string> found;
  for (const FileEntry& file : files) {
    if (FormatOf({}, file.path) != v1::DatasetSummary::FORMAT_UNSPECIFIED) {
      found.push_back(file.path);
    }
  }
  if (found.size() != 1) {
    return absl::FailedPreconditionError(
        absl::StrCat("the dataset has ", found.size(),
                     " files named *.jsonl, *.csv, *.tsv or *.txt; it must have exactly one"));
  }
  return DatasetPath{directory + "/" + found.front(),
                     FileFormatOf(FormatOf(dataset.dataset().format(), found.front()))};
}

absl::StatusOr<DatasetSummary> ScanAll(const std::string& path, const DatasetSchema& schema,
                                       const Tick& tick) {
  DatasetSummary summary;
  DatasetIssue first;
  const auto on_issue = [&](const DatasetIssue& issue) {
    if (first.line == 0) first = issue;
    return absl::OkStatus();
  };
  THAW_RETURN_IF_ERROR(ScanDataset(path, schema, DatasetLimits(), on_issue, &summary, tick));
  if (summary.issues > 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(summary.issues, " problems in the dataset, the first in line ", first.line,
                     ", field \"", first.field, "\": ", first.reason, ": ", first.remedy));
  }
  return summary;
}

std::vector<std::string> LabelNames(const DatasetSummary& summary) {
  std::vector<std::string> names;
  for (const LabelCount& count : summary.labels) names.push_back(count.label);
  return names;
}

absl::Status ForEachExample(const std::string& path, const DatasetSchema& schema, const Tick& tick,
                            const std::function<absl::Status(const Example&)>& take) {
  THAW_ASSIGN_OR_RETURN(const auto reader, DatasetReader::Open(path, schema));
  Example example;
  for (int64_t seen = 0;; ++seen) {
    if (seen % kTickRows == 0) tick();
    THAW_ASSIGN_OR_RETURN(const bool more, reader->Next(&example));
    if (!more) return absl::OkStatus();
    THAW_RETURN_IF_ERROR(take(example));
  }
}

absl::StatusOr<TokenizedDataset> ReadRows(const std::string& path, const DatasetSchema& schema,
                                          const Tokenizer& tokenizer,
                                          const std::vector<std::string>& labels,
                                          TokenizeOptions options, const Tick& tick) {
  THAW_ASSIGN_OR_RETURN(auto reader, DatasetReader::Open(path, schema));
  options.keep = [&, keep = options.keep, seen = int64_t{0}](const Example& example) mutable {
    if (seen++ % kTickRows == 0) tick();
    return !keep || keep(example);
  };
  return TokenizeDataset(reader.get(), tokenizer, labels, options);
}

}  // namespace thaw
