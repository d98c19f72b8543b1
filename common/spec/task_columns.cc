#include "common/spec/task_columns.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace thaw {
namespace {

using Rows = v1::DatasetSummary;

// The first that is not empty.
std::string FirstOf(std::initializer_list<absl::string_view> columns) {
  for (const absl::string_view column : columns) {
    if (!column.empty()) return std::string(column);
  }
  return "";
}

// One column that a task reads beside the one that the dataset was uploaded with.
struct ColumnPair {
  const char* name;
  std::string asked;
  std::string found;
};

std::string RowsName(Rows::Task task) { return Rows::Task_Name(task); }

std::string CannotServe(const v1::Artifact& dataset, absl::string_view wanted) {
  return absl::StrCat("\"", dataset.id(), "\" holds rows of ", RowsName(TaskOf(dataset.dataset())),
                      "; give a dataset that was imported as ", wanted);
}

void CheckPairs(absl::string_view field, const std::vector<ColumnPair>& pairs,
                const std::string& dataset, SpecProblems* problems) {
  for (const ColumnPair& pair : pairs) {
    if (pair.asked == pair.found) continue;
    const std::string at = absl::StrCat(field, ".", pair.name);
    if (pair.found.empty()) {
      problems->Add(at, absl::StrCat("\"", pair.asked, "\"; \"", dataset,
                                     "\" was uploaded without such a column; leave it empty, or "
                                     "import the dataset with it"));
    } else if (!pair.asked.empty()) {
      problems->Add(
          at, absl::StrCat("\"", pair.asked, "\"; \"", dataset, "\" was uploaded with column \"",
                           pair.found, "\", so give that"));
    }
  }
}

void CheckAnswered(absl::string_view field, const v1::Artifact& dataset, absl::string_view what,
                   SpecProblems* problems) {
  const Rows& rows = dataset.dataset();
  if (rows.unlabelled_rows() == 0) return;
  problems->Add(field, absl::StrCat("\"", dataset.id(), "\" has ", rows.unlabelled_rows(), " of ",
                                    rows.rows(), " rows without ", what, "; give every row one"));
}

// What a training needs of its datasets.
struct Need {
  std::string field;
  std::vector<Rows::Task> rows;
  const char* answer;  // what every row must have; null: nothing
  std::vector<ColumnPair> columns;
};

Need NeedOf(const v1::Training& training, const Rows& found) {
  switch (training.task_case()) {
    case v1::Training::kTextClassification: {
      const v1::TextClassification& task = training.text_classification();
      return {"text_classification",
              {task.multi_label() ? Rows::MULTI_LABEL : Rows::CLASSIFICATION},
              "a label",
              {{"text_column", task.text_column(), found.text_column()},
               {"text_pair_column", task.text_pair_column(), found.text_pair_column()},
               {"label_column", task.label_column(),
                found.labels_size() > 0 ? found.label_column() : task.label_column()}}};
    }
    case v1::Training::kRegression: {
      const v1::Regression& task = training.regression();
      return {"regression",
              {Rows::REGRESSION},
              "a number",
              {{"text_column", task.text_column(), found.text_column()},
               {"target_column", task.target_column(), found.target_column()}}};
    }
    case v1::Training::kLanguageModeling: {
      const v1::LanguageModeling& task = training.language_modeling();
      return {"language_modeling",
              {Rows::LANGUAGE_MODELING, Rows::CLASSIFICATION, Rows::MULTI_LABEL, Rows::REGRESSION},
              nullptr,
              {{"text_column", task.text_column(), found.text_column()}}};
    }
    case v1::Training::kCompletion: {
      const v1::Completion& task = training.completion();
      return {"completion",
              {Rows::COMPLETION},
              "an answer",
              {{"prompt_column", task.prompt_column(), found.prompt_column()},
               {"completion_column", task.completion_column(), found.completion_column()},
               {"messages_column", task.messages_column(), found.messages_column()}}};
    }
    case v1::Training::kSequenceToSequence: {
      const v1::SequenceToSequence& task = training.sequence_to_sequence();
      return {"sequence_to_sequence",
              {Rows::SEQUENCE_TO_SEQUENCE},
              "a target",
              {{"source_column", task.source_column(), found.source_column()},
               {"target_column", task.target_column(), found.target_column()}}};
    }
    case v1::Training::TASK_NOT_SET:
      break;
  }
  return {};
}

// The text columns that a prediction may read of a dataset.
std::vector<std::string> TextColumns(const Rows& rows) {
  std::vector<std::string> columns = {rows.text_column(), rows.text_pair_column(),
                                      rows.prompt_column(), rows.source_column()};
  if (rows.unlabelled_rows() == 0) {
    columns.push_back(rows.completion_column());
    if (TaskOf(rows) == Rows::SEQUENCE_TO_SEQUENCE) columns.push_back(rows.target_column());
  }
  columns.erase(std::remove(columns.begin(), columns.end(), ""), columns.end());
  return columns;
}

void CheckTextColumn(absl::string_view field, const std::string& asked, const v1::Artifact& dataset,
                     SpecProblems* problems) {
  const std::vector<std::string> columns = TextColumns(dataset.dataset());
  if (std::find(columns.begin(), columns.end(), asked) != columns.end()) return;
  if (columns.empty()) {
    problems->Add("spec.prediction.dataset",
                  absl::StrCat("\"", dataset.id(),
                               "\" holds conversations, which only generate reads; give a dataset "
                               "of texts"));
    return;
  }
  problems->Add(field, absl::StrCat("\"", asked, "\"; the texts of \"", dataset.id(), "\" are in: ",
                                    absl::StrJoin(columns, ", "), "; give one of these"));
}

void CheckClassify(const v1::Artifact& dataset, const v1::Classify& task, SpecProblems* problems) {
  const Rows& found = dataset.dataset();
  CheckTextColumn("spec.prediction.classify.text_column", task.text_column(), dataset, problems);
  if (!task.text_pair_column().empty()) {
    CheckTextColumn("spec.prediction.classify.text_pair_column", task.text_pair_column(), dataset,
                    problems);
  }
  if (found.labels_size() == 0) return;
  CheckPairs("spec.prediction.classify",
             {{"label_column", task.label_column(), found.label_column()}}, dataset.id(), problems);
}

void CheckScore(const v1::Artifact& dataset, const v1::Score& task, SpecProblems* problems) {
  if (!task.text_column().empty()) {
    CheckTextColumn("spec.prediction.score.text_column", task.text_column(), dataset, problems);
    return;
  }
  const Rows& found = dataset.dataset();
  if (found.prompt_column().empty() && found.source_column().empty()) {
    problems->Add("spec.prediction.dataset", CannotServe(dataset, "COMPLETION with prompts"));
    return;
  }
  CheckAnswered("spec.prediction.dataset", dataset, "a completion", problems);
  CheckPairs("spec.prediction.score",
             {{"prompt_column", task.prompt_column(),
               FirstOf({found.prompt_column(), found.source_column()})},
              {"completion_column", task.completion_column(),
               FirstOf({found.completion_column(), found.target_column()})}},
             dataset.id(), problems);
}

}  // namespace

Rows::Task TaskOf(const Rows& dataset) {
  return dataset.task() == Rows::TASK_UNSPECIFIED ? Rows::CLASSIFICATION : dataset.task();
}

void FillColumns(const v1::Artifact* dataset, v1::Training* training) {
  const Rows none;
  const Rows& found = dataset == nullptr ? none : dataset->dataset();
  switch (training->task_case()) {
    case v1::Training::kTextClassification: {
      v1::TextClassification* task = training->mutable_text_classification();
      task->set_text_column(FirstOf({task->text_column(), found.text_column(), "text"}));
      task->set_label_column(FirstOf({task->label_column(), found.label_column(), "label"}));
      break;
    }
    case v1::Training::kRegression: {
      v1::Regression* task = training->mutable_regression();
      task->set_text_column(FirstOf({task->text_column(), found.text_column(), "text"}));
      task->set_target_column(FirstOf({task->target_column(), found.target_column(), "label"}));
      break;
    }
    case v1::Training::kLanguageModeling: {
      v1::LanguageModeling* task = training->mutable_language_modeling();
      task->set_text_column(FirstOf({task->text_column(), found.text_column(), "text"}));
      break;
    }
    case v1::Training::kCompletion: {
      v1::Completion* task = training->mutable_completion();
      const bool prompts = !task->prompt_column().empty() || !task->completion_column().empty();
      if (!prompts && task->messages_column().empty()) {
        task->set_messages_column(found.messages_column());
      }
      if (!task->messages_column().empty()) break;
      task->set_prompt_column(FirstOf({task->prompt_column(), found.prompt_column(), "prompt"}));
      task->set_completion_column(
          FirstOf({task->completion_column(), found.completion_column(), "completion"}));
      break;
    }
    case v1::Training::kSequenceToSequence: {
      v1::SequenceToSequence* task = training->mutable_sequence_to_sequence();
      task->set_source_column(FirstOf({task->source_column(), found.source_column(), "source"}));
      task->set_target_column(FirstOf({task->target_column(), found.target_column(), "target"}));
      break;
    }
    case v1::Training::TASK_NOT_SET:
      break;
  }
}

void FillColumns(const v1::Artifact* dataset, v1::Prediction* prediction) {
  const Rows none;
  const Rows& found = dataset == nullptr ? none : dataset->dataset();
  const std::string prompt =
      FirstOf({found.prompt_column(), found.source_column(), found.text_column(), "prompt"});
  switch (prediction->task_case()) {
    case v1::Prediction::kClassify: {
      v1::Classify* task = prediction->mutable_classify();
      task->set_text_column(FirstOf({task->text_column(), found.text_column(), "text"}));
      task->set_label_column(FirstOf({task->label_column(), found.label_column(), "label"}));
      break;
    }
    case v1::Prediction::kEmbed: {
      v1::Embed* task = prediction->mutable_embed();
      if (task->text_column().empty()) {
        task->set_text_column(
            FirstOf({found.text_column(), found.prompt_column(), found.source_column(), "text"}));
      }
      break;
    }
    case v1::Prediction::kScore: {
      v1::Score* task = prediction->mutable_score();
      const bool pairs = !task->prompt_column().empty() || !task->completion_column().empty();
      if (!pairs && task->text_column().empty()) {
        task->set_text_column(prediction->has_texts() ? "text" : found.text_column());
      }
      if (!task->text_column().empty()) break;
      if (task->prompt_column().empty()) task->set_prompt_column(prompt);
      if (task->completion_column().empty()) {
        task->set_completion_column(
            FirstOf({found.completion_column(),
                     found.source_column().empty() ? "" : found.target_column(), "completion"}));
      }
      break;
    }
    case v1::Prediction::kGenerate: {
      v1::Generate* task = prediction->mutable_generate();
      if (task->prompt_column().empty() && task->messages_column().empty()) {
        task->set_messages_column(found.messages_column());
      }
      if (task->messages_column().empty() && task->prompt_column().empty()) {
        task->set_prompt_column(prompt);
      }
      break;
    }
    case v1::Prediction::TASK_NOT_SET:
      break;
  }
}

bool CheckColumns(absl::string_view dataset_field, const v1::Artifact& dataset,
                  const v1::Training& training, SpecProblems* problems) {
  const Need need = NeedOf(training, dataset.dataset());
  if (need.rows.empty()) return false;
  if (std::find(need.rows.begin(), need.rows.end(), TaskOf(dataset.dataset())) == need.rows.end()) {
    problems->Add(dataset_field, CannotServe(dataset, RowsName(need.rows.front())));
    return false;
  }
  CheckPairs(absl::StrCat("spec.training.", need.field), need.columns, dataset.id(), problems);
  if (need.answer != nullptr) CheckAnswered(dataset_field, dataset, need.answer, problems);
  return true;
}

void CheckColumns(const v1::Artifact& dataset, const v1::Prediction& prediction,
                  SpecProblems* problems) {
  switch (prediction.task_case()) {
    case v1::Prediction::kClassify:
      CheckClassify(dataset, prediction.classify(), problems);
      break;
    case v1::Prediction::kEmbed:
      CheckTextColumn("spec.prediction.embed.text_column", prediction.embed().text_column(),
                      dataset, problems);
      break;
    case v1::Prediction::kScore:
      CheckScore(dataset, prediction.score(), problems);
      break;
    case v1::Prediction::kGenerate: {
      const v1::Generate& task = prediction.generate();
      if (task.messages_column().empty()) {
        CheckTextColumn("spec.prediction.generate.prompt_column", task.prompt_column(), dataset,
                        problems);
        break;
      }
      CheckPairs("spec.prediction.generate",
                 {{"messages_column", task.messages_column(), dataset.dataset().messages_column()}},
                 dataset.id(), problems);
      break;
    }
    case v1::Prediction::TASK_NOT_SET:
      break;
  }
}

}  // namespace thaw
