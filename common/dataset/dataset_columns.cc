#include "common/dataset/dataset_columns.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace thaw {
namespace {

using Rows = v1::DatasetSummary;

constexpr size_t kLongestColumn = 120;
constexpr const char* kColumns[] = {"text_column",     "label_column",  "text_pair_column",
                                    "target_column",   "prompt_column", "completion_column",
                                    "messages_column", "source_column"};

struct UsualColumn {
  const char* field;
  const char* usual;  // empty: none unless it is given
};

std::vector<UsualColumn> ColumnsOf(Rows::Task task) {
  switch (task) {
    case Rows::REGRESSION:
      return {{"text_column", "text"}, {"target_column", "label"}};
    case Rows::LANGUAGE_MODELING:
      return {{"text_column", "text"}};
    case Rows::COMPLETION:
      return {{"prompt_column", "prompt"},
              {"completion_column", "completion"},
              {"messages_column", ""}};
    case Rows::SEQUENCE_TO_SEQUENCE:
      return {{"source_column", "source"}, {"target_column", "target"}};
    default:
      return {{"text_column", "text"}, {"label_column", "label"}, {"text_pair_column", ""}};
  }
}

// Both messages name their columns alike.
std::string Get(const google::protobuf::Message& message, const char* field) {
  return message.GetReflection()->GetString(message,
                                            message.GetDescriptor()->FindFieldByName(field));
}

void Set(google::protobuf::Message* message, const char* field, const std::string& value) {
  message->GetReflection()->SetString(message, message->GetDescriptor()->FindFieldByName(field),
                                      value);
}

bool Has(const std::vector<UsualColumn>& columns, const char* field) {
  return std::any_of(columns.begin(), columns.end(), [&](const UsualColumn& column) {
    return std::string_view(column.field) == field;
  });
}

bool NamesNone(const v1::DatasetColumns& columns) {
  return std::all_of(std::begin(kColumns), std::end(kColumns),
                     [&](const char* field) { return Get(columns, field).empty(); });
}

}  // namespace

v1::DatasetColumns WithDefaults(const v1::DatasetColumns& columns) {
  v1::DatasetColumns filled = columns;
  if (filled.task() == Rows::TASK_UNSPECIFIED) filled.set_task(Rows::CLASSIFICATION);
  if (filled.task() == Rows::COMPLETION &&
      (NamesNone(columns) || !columns.messages_column().empty()))
    return filled;
  for (const UsualColumn& column : ColumnsOf(filled.task())) {
    if (Get(filled, column.field).empty()) Set(&filled, column.field, column.usual);
  }
  return filled;
}

std::vector<FieldViolation> ViolationsIn(const v1::DatasetColumns& columns) {
  std::vector<FieldViolation> violations;
  const auto add = [&](const char* field, const std::string& description) {
    violations.push_back({absl::StrCat("columns.", field), description});
  };
  if (!Rows::Task_IsValid(columns.task())) {
    add("task", absl::StrCat(static_cast<int>(columns.task()),
                             " is not known: give CLASSIFICATION, MULTI_LABEL, REGRESSION, "
                             "LANGUAGE_MODELING, COMPLETION or SEQUENCE_TO_SEQUENCE"));
    return violations;
  }
  const v1::DatasetColumns filled = WithDefaults(columns);
  const std::vector<UsualColumn> known = ColumnsOf(filled.task());
  for (const char* field : kColumns) {
    const std::string name = Get(filled, field);
    if (name.empty()) continue;
    if (!Has(known, field)) {
      add(field, absl::StrCat("is set, but rows of ", Rows::Task_Name(filled.task()),
                              " have no such column: leave it empty"));
    } else if (name.size() > kLongestColumn) {
      add(field, absl::StrCat("is longer than ", kLongestColumn, " bytes"));
    }
    for (const char* other : kColumns) {
      if (other == field) break;
      if (Get(filled, other) != name) continue;
      add(field, absl::StrCat("names the same column as ", other, ": give another"));
    }
  }
  if (!columns.messages_column().empty() &&
      !(columns.prompt_column().empty() && columns.completion_column().empty())) {
    add("messages_column",
        "is set beside prompt_column or completion_column: a file holds conversations or prompts, "
        "so give one or the other");
  }
  return violations;
}

void CopyColumns(const v1::DatasetColumns& columns, Rows* summary) {
  summary->set_task(columns.task());
  for (const char* field : kColumns) Set(summary, field, Get(columns, field));
}

bool SameColumns(const v1::DatasetColumns& columns, const Rows& summary) {
  const v1::DatasetColumns filled = WithDefaults(columns);
  const Rows::Task task =
      summary.task() == Rows::TASK_UNSPECIFIED ? Rows::CLASSIFICATION : summary.task();
  if (task != filled.task()) return false;
  // The same file decided the same.
  if (task == Rows::COMPLETION && NamesNone(columns)) {
    return summary.messages_column() == "messages" ||
           (summary.prompt_column() == "prompt" && summary.completion_column() == "completion");
  }
  return std::all_of(std::begin(kColumns), std::end(kColumns),
                     [&](const char* field) { return Get(filled, field) == Get(summary, field); });
}

DatasetSchema SchemaOf(const Rows& summary) {
  DatasetSchema schema = {.text_column = summary.text_column(),
                          .text_pair_column = summary.text_pair_column(),
                          .label_column = summary.label_column()};
  switch (summary.task()) {
    case Rows::MULTI_LABEL:
      schema.form = ExampleForm::kLabels;
      break;
    case Rows::REGRESSION:
      schema.form = ExampleForm::kNumber;
      schema.label_column = summary.target_column();
      break;
    case Rows::LANGUAGE_MODELING:
      schema.form = ExampleForm::kText;
      break;
    case Rows::COMPLETION:
      schema.form =
          summary.messages_column().empty() ? ExampleForm::kAnswer : ExampleForm::kConversation;
      schema.text_column =
          summary.messages_column().empty() ? summary.prompt_column() : summary.messages_column();
      schema.label_column = summary.messages_column().empty() ? summary.completion_column()
                                                              : summary.messages_column();
      break;
    case Rows::SEQUENCE_TO_SEQUENCE:
      schema.form = ExampleForm::kAnswer;
      schema.text_column = summary.source_column();
      schema.label_column = summary.target_column();
      break;
    default:
      break;
  }
  return schema;
}

}  // namespace thaw
