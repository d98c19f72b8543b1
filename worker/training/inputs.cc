#include "worker/training/inputs.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "common/dataset/dataset_reader.h"
#include "common/dataset/dataset_split.h"

namespace thaw {
namespace {

constexpr int32_t kDefaultMaxLength = 256;
constexpr int64_t kTickRows = 1000;

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

// The one JSON Lines file of a dataset directory.
absl::StatusOr<std::string> DatasetFile(const std::string& directory) {
  THAW_ASSIGN_OR_RETURN(const std::vector<FileEntry> files, ListFiles(directory));
  std::vector<std::string> found;
  for (const FileEntry& file : files) {
    if (absl::EndsWith(file.path, ".jsonl")) found.push_back(directory + "/" + file.path);
  }
  if (found.size() != 1) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the dataset has ", found.size(), " files named *.jsonl; it must have exactly one"));
  }
  return found.front();
}

// Whole-file check of the columns; the summary's labels are in class order.
absl::StatusOr<DatasetSummary> Scan(const std::string& path, const DatasetSchema& schema) {
  DatasetSummary summary;
  DatasetIssue first;
  const auto on_issue = [&](const DatasetIssue& issue) {
    if (first.line == 0) first = issue;
    return absl::OkStatus();
  };
  THAW_RETURN_IF_ERROR(ScanDataset(path, schema, DatasetLimits(), on_issue, &summary));
  if (summary.issues > 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(summary.issues, " problems in the dataset, the first in line ", first.line,
                     ", field \"", first.field, "\": ", first.reason));
  }
  return summary;
}

std::vector<std::string> LabelNames(const DatasetSummary& summary) {
  std::vector<std::string> names;
  for (const LabelCount& count : summary.labels) names.push_back(count.label);
  return names;
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

}  // namespace

absl::StatusOr<TrainingInputs> ReadTrainingInputs(const internal::Run& run,
                                                  const ModelConfig& config, int threads,
                                                  const Tick& tick) {
  const v1::Training& training = run.assignment().spec().training();
  const v1::TextClassification& task = training.text_classification();
  const DatasetSchema schema{.text_column = OrDefault(task.text_column(), "text"),
                             .text_pair_column = "",
                             .label_column = OrDefault(task.label_column(), "label")};
  THAW_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(run.model_dir(), config));
  THAW_ASSIGN_OR_RETURN(const std::string path, DatasetFile(run.dataset_dir()));
  THAW_ASSIGN_OR_RETURN(const DatasetSummary summary, Scan(path, schema));
  tick();
  TrainingInputs inputs;
  inputs.labels = LabelNames(summary);
  if (inputs.labels.size() < 2) {
    return absl::FailedPreconditionError(
        absl::StrCat("column \"", schema.label_column, "\" holds ", inputs.labels.size(),
                     " different labels; classification needs at least 2"));
  }
  TokenizeOptions options{
      .max_length = MaxLength(training.max_length(), config), .threads = threads, .keep = {}};
  const double fraction = training.validation_case() == v1::Training::kValidationFraction
                              ? training.validation_fraction()
                              : (run.validation_dataset_dir().empty() ? 0.1 : 0.0);
  if (fraction > 0) {
    const uint64_t seed = training.seed();
    options.keep = [fraction, seed](const Example& example) {
      return InValidationSplit(example, fraction, seed);
    };
    THAW_ASSIGN_OR_RETURN(inputs.validation,
                          ReadRows(path, schema, *tokenizer, inputs.labels, options, tick));
    options.keep = [fraction, seed](const Example& example) {
      return !InValidationSplit(example, fraction, seed);
    };
  } else if (!run.validation_dataset_dir().empty()) {
    THAW_ASSIGN_OR_RETURN(const std::string validation, DatasetFile(run.validation_dataset_dir()));
    auto rows = ReadRows(validation, schema, *tokenizer, inputs.labels, options, tick);
    if (!rows.ok()) return Annotate(rows.status(), "validation dataset");
    inputs.validation = *std::move(rows);
  }
  THAW_ASSIGN_OR_RETURN(inputs.training,
                        ReadRows(path, schema, *tokenizer, inputs.labels, options, tick));
  if (inputs.training.rows() == 0) {
    return absl::FailedPreconditionError(
        "no training rows are left beside the validation ones: give a smaller validation_fraction");
  }
  return inputs;
}

absl::StatusOr<PredictionInputs> ReadPredictionInputs(const internal::Run& run,
                                                      const ModelConfig& config, int threads,
                                                      const Tick& tick) {
  const v1::Prediction& prediction = run.assignment().spec().prediction();
  THAW_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(run.model_dir(), config));
  const std::vector<std::string>& labels = config.labels;
  const TokenizeOptions options{
      .max_length = MaxLength(prediction.max_length(), config), .threads = threads, .keep = {}};
  PredictionInputs inputs;
  if (prediction.has_texts()) {
    std::vector<TextInput> texts;
    for (const std::string& text : prediction.texts().values()) texts.push_back({.text = text});
    THAW_ASSIGN_OR_RETURN(inputs.rows, TokenizeTexts(texts, *tokenizer, options));
    return inputs;
  }
  DatasetSchema schema{.text_column = OrDefault(prediction.classify().text_column(), "text"),
                       .text_pair_column = "",
                       .label_column = OrDefault(prediction.classify().label_column(), "label")};
  THAW_ASSIGN_OR_RETURN(const std::string path, DatasetFile(run.dataset_dir()));
  const auto summary = Scan(path, schema);
  tick();
  if (summary.ok() && summary->examples > 0) {
    const std::vector<std::string> found = LabelNames(*summary);
    inputs.labelled = std::all_of(found.begin(), found.end(), [&](const std::string& label) {
      return std::find(labels.begin(), labels.end(), label) != labels.end();
    });
  }
  if (!inputs.labelled) schema.label_column.clear();
  THAW_ASSIGN_OR_RETURN(
      inputs.rows, ReadRows(path, schema, *tokenizer,
                            inputs.labelled ? labels : std::vector<std::string>(), options, tick));
  return inputs;
}

}  // namespace thaw
