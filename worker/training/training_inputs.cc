#include "worker/training/training_inputs.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/dataset/dataset_split.h"
#include "worker/training/inputs.h"

namespace thaw {

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
  THAW_ASSIGN_OR_RETURN(const DatasetSummary summary, ScanAll(path, schema));
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

}  // namespace thaw
