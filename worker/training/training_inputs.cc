#include "worker/training/training_inputs.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/edit_distance.h"
#include "common/base/status.h"
#include "common/dataset/dataset_split.h"
#include "worker/text/special_tokens.h"
#include "worker/training/inputs.h"
#include "worker/training/run_model.h"
#include "worker/training/task_rows.h"
#include "worker/tuning/metric.h"

namespace thaw {
namespace {

constexpr int32_t kDefaultNewTokens = 256;
constexpr int32_t kDefaultGeneratedRows = 256;

absl::Status CheckLabels(const TrainingInputs& inputs, const DatasetSchema& schema) {
  const size_t least = inputs.problem == ProblemType::kMultiLabel ? 1 : 2;
  if (inputs.labels.size() >= least) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("column \"", schema.label_column, "\" holds ", inputs.labels.size(),
                   " different labels; classification needs at least ", least));
}

absl::Status WhyNoRows(const TokenizedDataset& training) {
  if (training.dropped_rows > 0 && training.skipped_rows == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("all ", training.dropped_rows,
                     " training examples are longer than max_length, the first in line ",
                     training.first_dropped_line,
                     ", and long_rows is DROP: give a greater max_length, or TRUNCATE"));
  }
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

LongRows LongRowsOf(v1::Training::LongRows long_rows) {
  switch (long_rows) {
    case v1::Training::SPLIT:
      return LongRows::kSplit;
    case v1::Training::DROP:
      return LongRows::kDrop;
    default:
      return LongRows::kTruncate;
  }
}

// By class; `rows` are those of the training.
absl::StatusOr<std::vector<float>> ClassWeights(const v1::TextClassification& task,
                                                const std::vector<std::string>& labels,
                                                const std::vector<int32_t>& rows) {
  if (task.multi_label() || (!task.balanced_classes() && task.class_weights().empty())) {
    return std::vector<float>();
  }
  std::vector<float> weights(labels.size(), 1);
  if (task.balanced_classes()) {
    std::vector<int64_t> counts(labels.size());
    for (const int32_t label : rows) ++counts[static_cast<size_t>(label)];
    for (size_t i = 0; i < labels.size(); ++i) {
      if (counts[i] == 0) continue;  // none of the rows is weighed by it
      weights[i] =
          static_cast<float>(static_cast<double>(rows.size()) /
                             (static_cast<double>(labels.size()) * static_cast<double>(counts[i])));
    }
  }
  for (const auto& [name, weight] : task.class_weights()) {
    const auto label = std::find(labels.begin(), labels.end(), name);
    if (label == labels.end()) {
      const std::string nearest = NearestName(name, labels);
      return InvalidField(
          "text_classification.class_weights",
          absl::StrCat("\"", name, "\" is no label of the dataset",
                       nearest.empty() ? "" : absl::StrCat("; did you mean \"", nearest, "\"?")));
    }
    weights[static_cast<size_t>(label - labels.begin())] = static_cast<float>(weight);
  }
  return weights;
}

// The texts of a validation dataset, and which training examples have them too.
class SharedTexts {
 public:
  void Add(const Example& validation) { hashes_.insert(HashTexts(validation)); }
  void Look(const Example& training, TrainingInputs* inputs) const {
    constexpr size_t kNamed = 8;
    if (hashes_.count(HashTexts(training)) == 0) return;
    ++inputs->shared_examples;
    if (inputs->shared_lines.size() < kNamed) inputs->shared_lines.push_back(training.line);
  }

 private:
  std::unordered_set<uint64_t> hashes_;
};

using Keep = std::function<bool(const Example&)>;

// Which examples of the one dataset are for the validation; empty: none.
absl::StatusOr<Keep> ValidationSide(const v1::Training& training, const internal::Run& run,
                                    const std::string& path, const DatasetSchema& schema,
                                    const Tick& tick) {
  const double fraction = training.validation_case() == v1::Training::kValidationFraction
                              ? training.validation_fraction()
                              : (run.validation_dataset_dir().empty() ? 0.1 : 0.0);
  const uint64_t seed = training.seed();
  if (fraction <= 0) return Keep();
  if (!training.stratified_validation()) {
    return Keep([fraction, seed](const Example& example) {
      return InValidationSplit(example, fraction, seed);
    });
  }
  const auto split = std::make_shared<StratifiedSplit>(fraction, seed);
  THAW_RETURN_IF_ERROR(ForEachExample(path, schema, tick, [&](const Example& example) {
    split->Add(example);
    return absl::OkStatus();
  }));
  split->Choose();
  return Keep([split](const Example& example) { return split->InValidation(example); });
}

// What evaluations need to generate text.
absl::Status PrepareAnswers(const internal::Run& run, const TaskRows& rows,
                            std::unique_ptr<Tokenizer> tokenizer, TrainingInputs* inputs) {
  if (inputs->validation.expected.empty()) return absl::OkStatus();
  THAW_ASSIGN_OR_RETURN(const SpecialTokens special,
                        ReadSpecialTokens(run.model_dir(), *tokenizer));
  const int32_t most = run.assignment().spec().training().evaluation().max_new_tokens();
  inputs->answers.max_new_tokens = most > 0 ? most : kDefaultNewTokens;
  inputs->answers.ends = special.stops;
  inputs->answers.decoder_start = rows.options.decoder_start;
  inputs->tokenizer = std::move(tokenizer);
  return absl::OkStatus();
}

// Of the validation rows, those that text is generated for.
int64_t GeneratedRows(const v1::Evaluation& evaluation) {
  if (!Reports(evaluation, v1::Evaluation::EXACT_MATCH) &&
      !Reports(evaluation, v1::Evaluation::DIGIT_MATCH)) {
    return 0;
  }
  return evaluation.generated_rows() > 0 ? evaluation.generated_rows() : kDefaultGeneratedRows;
}

}  // namespace

absl::StatusOr<TrainingInputs> ReadTrainingInputs(const internal::Run& run,
                                                  const std::string& model_dir,
                                                  const ModelConfig& config, int threads,
                                                  const Tick& tick) {
  const v1::Training& training = run.assignment().spec().training();
  THAW_ASSIGN_OR_RETURN(auto tokenizer, LoadTokenizer(model_dir, config));
  THAW_ASSIGN_OR_RETURN(const TaskRows rows, RowsOfTask(run, config, model_dir, *tokenizer));
  DatasetSchema schema = rows.schema;
  THAW_ASSIGN_OR_RETURN(const DatasetPath file,
                        FindDataset(run.dataset_dir(), run.assignment().dataset()));
  schema.format = file.format;
  THAW_ASSIGN_OR_RETURN(const DatasetSummary summary, ScanAll(file.path, schema, tick));
  TrainingInputs inputs;
  inputs.head = rows.head;
  inputs.problem = rows.problem;
  inputs.in_lanes = rows.options.foretells_next;
  if (schema.form == ExampleForm::kLabel || schema.form == ExampleForm::kLabels) {
    inputs.labels = LabelNames(summary);
    THAW_RETURN_IF_ERROR(CheckLabels(inputs, schema));
  } else if (schema.form == ExampleForm::kNumber) {
    const bool named = config.problem == ProblemType::kRegression && config.labels.size() == 1;
    inputs.labels = {named ? config.labels.front() : "LABEL_0"};
  }
  inputs.lacks_end = inputs.head == HeadKind::kLanguageModel && !rows.options.end &&
                     rows.options.kind != RowKind::kConversation;
  TokenizeOptions validating = rows.options;
  validating.threads = threads;
  validating.keep_answers = GeneratedRows(training.evaluation());
  TokenizeOptions learning = rows.options;
  learning.threads = threads;
  learning.long_rows = LongRowsOf(training.long_rows());
  THAW_ASSIGN_OR_RETURN(const Keep validation_side,
                        ValidationSide(training, run, file.path, schema, tick));
  SharedTexts shared;
  if (validation_side) {
    validating.keep = validation_side;
    THAW_ASSIGN_OR_RETURN(inputs.validation,
                          ReadRows(file.path, schema, *tokenizer, inputs.labels, validating, tick));
    learning.keep = [&](const Example& example) { return !validation_side(example); };
  } else if (!run.validation_dataset_dir().empty()) {
    THAW_ASSIGN_OR_RETURN(
        const DatasetPath other,
        FindDataset(run.validation_dataset_dir(), run.assignment().validation_dataset()));
    DatasetSchema other_schema = schema;
    other_schema.format = other.format;
    validating.keep = [&](const Example& example) { return shared.Add(example), true; };
    auto read = ReadRows(other.path, other_schema, *tokenizer, inputs.labels, validating, tick);
    if (!read.ok()) return Annotate(read.status(), "validation dataset");
    inputs.validation = *std::move(read);
    learning.keep = [&](const Example& example) { return shared.Look(example, &inputs), true; };
  }
  THAW_ASSIGN_OR_RETURN(inputs.training,
                        ReadRows(file.path, schema, *tokenizer, inputs.labels, learning, tick));
  if (inputs.training.rows() == 0) return WhyNoRows(inputs.training);
  THAW_ASSIGN_OR_RETURN(inputs.class_weights, ClassWeights(training.text_classification(),
                                                           inputs.labels, inputs.training.labels));
  THAW_RETURN_IF_ERROR(PrepareAnswers(run, rows, std::move(tokenizer), &inputs));
  return inputs;
}

}  // namespace thaw
