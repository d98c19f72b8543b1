#include "worker/training/training_inputs.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/dataset/dataset_split.h"
#include "worker/training/inputs.h"
#include "worker/training/run_model.h"
#include "worker/training/task_rows.h"

namespace thaw {
namespace {

absl::Status CheckLabels(const TrainingInputs& inputs, const DatasetSchema& schema) {
  const size_t least = inputs.problem == ProblemType::kMultiLabel ? 1 : 2;
  if (inputs.labels.size() >= least) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("column \"", schema.label_column, "\" holds ", inputs.labels.size(),
                   " different labels; classification needs at least ", least));
}

absl::Status WhyNoRows(const TokenizedDataset& training) {
  if (training.skipped_rows > 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("none of the ", training.skipped_rows,
                     " training examples has a token to learn from within max_length, the first in "
                     "line ",
                     training.first_skipped_line, ": give a greater max_length"));
  }
  return absl::FailedPreconditionError(
      "no training rows are left beside the validation ones: give a smaller validation_fraction");
}

}  // namespace

absl::StatusOr<TrainingInputs> ReadTrainingInputs(const internal::Run& run,
                                                  const ModelConfig& config, int threads,
                                                  const Tick& tick) {
  const v1::Training& training = run.assignment().spec().training();
  THAW_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(BaseDirectory(run), config));
  THAW_ASSIGN_OR_RETURN(const TaskRows rows,
                        RowsOfTask(run, config, BaseDirectory(run), *tokenizer));
  const DatasetSchema& schema = rows.schema;
  THAW_ASSIGN_OR_RETURN(const std::string path, DatasetFile(run.dataset_dir()));
  THAW_ASSIGN_OR_RETURN(const DatasetSummary summary, ScanAll(path, schema, tick));
  TrainingInputs inputs;
  inputs.head = rows.head;
  inputs.problem = rows.problem;
  inputs.carries_state = rows.options.foretells_next;
  if (schema.form == ExampleForm::kLabel || schema.form == ExampleForm::kLabels) {
    inputs.labels = LabelNames(summary);
    THAW_RETURN_IF_ERROR(CheckLabels(inputs, schema));
  } else if (schema.form == ExampleForm::kNumber) {
    const bool named = config.problem == ProblemType::kRegression && config.labels.size() == 1;
    inputs.labels = {named ? config.labels.front() : "LABEL_0"};
  }
  inputs.lacks_end = inputs.head == HeadKind::kLanguageModel && !rows.options.end &&
                     rows.options.kind != RowKind::kConversation;
  TokenizeOptions options = rows.options;
  options.threads = threads;
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
    auto read = ReadRows(validation, schema, *tokenizer, inputs.labels, options, tick);
    if (!read.ok()) return Annotate(read.status(), "validation dataset");
    inputs.validation = *std::move(read);
  }
  THAW_ASSIGN_OR_RETURN(inputs.training,
                        ReadRows(path, schema, *tokenizer, inputs.labels, options, tick));
  if (inputs.training.rows() == 0) return WhyNoRows(inputs.training);
  return inputs;
}

}  // namespace thaw
