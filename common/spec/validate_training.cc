#include <initializer_list>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/spec/spec_problems.h"

namespace thaw {
namespace {

// A column as a task names it.
struct ColumnName {
  const char* field;
  const std::string& given;
  const char* otherwise;  // the default; empty: no such column

  absl::string_view name() const { return given.empty() ? absl::string_view(otherwise) : given; }
};

// Names of columns must be printable and different.
void ValidateColumns(absl::string_view field, std::initializer_list<ColumnName> columns,
                     SpecProblems* problems) {
  for (const ColumnName& column : columns) {
    problems->ExpectName(absl::StrCat(field, ".", column.field), column.given, 120);
    for (const ColumnName& other : columns) {
      if (&other == &column) break;
      if (!column.name().empty() && column.name() == other.name()) {
        problems->Add(absl::StrCat(field, ".", column.field),
                      absl::StrCat("\"", column.name(), "\" is the ", other.field,
                                   " too; give another column"));
      }
    }
  }
}

void ValidateTask(absl::string_view field, const v1::Training& training, SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  switch (training.task_case()) {
    case v1::Training::kTextClassification: {
      const v1::TextClassification& task = training.text_classification();
      ValidateColumns(at("text_classification"),
                      {{"text_column", task.text_column(), "text"},
                       {"text_pair_column", task.text_pair_column(), ""},
                       {"label_column", task.label_column(), "label"}},
                      problems);
      break;
    }
    case v1::Training::kRegression:
      ValidateColumns(at("regression"),
                      {{"text_column", training.regression().text_column(), "text"},
                       {"target_column", training.regression().target_column(), "label"}},
                      problems);
      break;
    case v1::Training::kLanguageModeling: {
      const v1::LanguageModeling& task = training.language_modeling();
      ValidateColumns(at("language_modeling"), {{"text_column", task.text_column(), "text"}},
                      problems);
      if (!v1::LanguageModeling::Layout_IsValid(task.layout())) {
        problems->Add(at("language_modeling.layout"),
                      absl::StrCat(static_cast<int>(task.layout()),
                                   " is not known; give CONTIGUOUS or PER_DOCUMENT"));
      }
      break;
    }
    case v1::Training::kCompletion: {
      const v1::Completion& task = training.completion();
      if (!task.messages_column().empty() &&
          !(task.prompt_column().empty() && task.completion_column().empty())) {
        problems->Add(at("completion.messages_column"),
                      absl::StrCat("\"", task.messages_column(),
                                   "\" is given beside prompt_column or completion_column; a file "
                                   "holds conversations or prompts, so give one or the other"));
      }
      ValidateColumns(at("completion"),
                      {{"prompt_column", task.prompt_column(), "prompt"},
                       {"completion_column", task.completion_column(), "completion"},
                       {"messages_column", task.messages_column(), ""}},
                      problems);
      break;
    }
    case v1::Training::kSequenceToSequence: {
      const v1::SequenceToSequence& task = training.sequence_to_sequence();
      ValidateColumns(at("sequence_to_sequence"),
                      {{"source_column", task.source_column(), "source"},
                       {"target_column", task.target_column(), "target"}},
                      problems);
      if (task.max_target_length() != 0) {
        problems->ExpectWithin(at("sequence_to_sequence.max_target_length"),
                               int64_t{task.max_target_length()}, 2, 1 << 20);
      }
      break;
    }
    case v1::Training::TASK_NOT_SET:
      problems->Add(at("task"),
                    "is not set; give text_classification, regression, language_modeling, "
                    "completion or sequence_to_sequence");
      break;
  }
}

}  // namespace

void ValidateTraining(absl::string_view field, const v1::Training& training,
                      SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  if (training.dataset().empty()) problems->Add(at("dataset"), "is empty; give a dataset's id");
  if (training.validation_case() == v1::Training::kValidationFraction) {
    problems->ExpectWithin(at("validation_fraction"), training.validation_fraction(), {0, 0.5});
  }
  if (training.validation_case() == v1::Training::kValidationDataset) {
    if (training.validation_dataset().empty()) {
      problems->Add(at("validation_dataset"), "is empty; give a dataset's id or leave it out");
    } else if (training.validation_dataset() == training.dataset()) {
      problems->Add(at("validation_dataset"), absl::StrCat("\"", training.dataset(),
                                                           "\" is the training dataset too; give "
                                                           "another, or validation_fraction"));
    }
  }
  ValidateTask(field, training, problems);
  const v1::ActivationCache& cache = training.activation_cache();
  if (!v1::ActivationCache::Use_IsValid(cache.use())) {
    problems->Add(at("activation_cache.use"),
                  absl::StrCat(static_cast<int>(cache.use()), " is not known; give AUTO or OFF"));
  }
  problems->ExpectWithin(at("activation_cache.max_bytes"), cache.max_bytes(), 0,
                         int64_t{10'000'000'000'000});
  ValidateRows(field, training, problems);
  ValidateAddedPart(field, training, problems);
  ValidatePooledHead(field, training, problems);
  ValidateProgram(field, training, problems);
  ValidateOptimizer(at("optimizer"), training.optimizer(), problems);
  if (training.batch().examples_per_step() != 0) {
    problems->ExpectWithin(at("batch.examples_per_step"),
                           int64_t{training.batch().examples_per_step()}, 1, 65536);
  }
  if (training.batch().tokens_per_micro_step() != 0) {
    problems->ExpectWithin(at("batch.tokens_per_micro_step"),
                           int64_t{training.batch().tokens_per_micro_step()}, 128, 1 << 20);
  }
  if (training.max_length() != 0) {
    problems->ExpectWithin(at("max_length"), int64_t{training.max_length()}, 2, 1 << 20);
  }
  if (training.has_max_grad_norm()) {
    problems->ExpectWithin(at("max_grad_norm"), training.max_grad_norm(), {0, 1e9});
  }
  ExpectPrecision(at("precision"), training.precision(), problems);
  if (!v1::Training::Recompute_IsValid(training.recompute_activations())) {
    problems->Add(at("recompute_activations"),
                  absl::StrCat(static_cast<int>(training.recompute_activations()),
                               " is not known; give AFTER_OUT_OF_MEMORY, ALWAYS or NEVER"));
  }
  ValidateEvaluation(at("evaluation"), training, problems);
  ValidateReplay(at("replay"), training, problems);
  if (training.checkpoint().every_steps() != 0) {
    problems->ExpectWithin(at("checkpoint.every_steps"), training.checkpoint().every_steps(), 1,
                           1'000'000);
  }
}

}  // namespace thaw
