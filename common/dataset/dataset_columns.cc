#include "common/dataset/dataset_columns.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/dataset/dataset_reader.h"
#include "common/dataset/text_rows.h"

namespace thaw {
namespace {

using Rows = v1::DatasetSummary;

constexpr size_t kLongestColumn = 120;
constexpr std::pair<const char*, Rows::Format> kEndings[] = {
    {".jsonl", Rows::JSONL}, {".csv", Rows::CSV}, {".tsv", Rows::TSV}, {".txt", Rows::TEXT}};
constexpr const char* kColumns[] = {"text_column",     "label_column",  "text_pair_column",
                                    "target_column",   "prompt_column", "completion_column",
                                    "messages_column", "source_column"};

struct UsualColumn {
  const char* field;
  const char* usual;  // empty: none unless it is given
  // Where the file has no column of that name and exactly one of these, that one.
  std::vector<std::string_view> others = {};
};

std::vector<UsualColumn> ColumnsOf(Rows::Task task) {
  const UsualColumn text = {
      "text_column", "text", {"sentence", "review", "content", "comment", "body", "document"}};
  switch (task) {
    case Rows::MULTI_LABEL:
      return {text,
              {"label_column", "label", {"labels", "tags", "categories"}},
              {"text_pair_column", ""}};
    case Rows::REGRESSION:
      return {text, {"target_column", "label", {"score", "rating", "target", "value"}}};
    case Rows::LANGUAGE_MODELING:
      return {text};
    case Rows::COMPLETION:
      return {{"prompt_column", "prompt", {"instruction", "question"}},
              {"completion_column", "completion", {"response", "answer", "output"}},
              {"messages_column", ""}};
    case Rows::SEQUENCE_TO_SEQUENCE:
      return {{"source_column", "source", {"src", "input"}},
              {"target_column", "target", {"tgt", "output"}}};
    default:
      return {text,
              {"label_column", "label", {"class", "category", "sentiment", "topic", "intent"}},
              {"text_pair_column", ""}};
  }
}

bool HasField(const std::vector<std::string>& fields, std::string_view name) {
  return std::find(fields.begin(), fields.end(), name) != fields.end();
}

// The column of a file with these fields.
std::string ByConvention(const UsualColumn& column, const std::vector<std::string>& fields) {
  if (HasField(fields, column.usual)) return column.usual;
  std::string found;
  for (const std::string_view other : column.others) {
    if (!HasField(fields, other)) continue;
    if (!found.empty()) return column.usual;
    found = other;
  }
  return found.empty() ? column.usual : found;
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

Rows::Format FormatOf(Rows::Format given, absl::string_view file) {
  if (given != Rows::FORMAT_UNSPECIFIED) return given;
  for (const auto& [ending, format] : kEndings) {
    if (absl::EndsWith(file, ending)) return format;
  }
  return Rows::FORMAT_UNSPECIFIED;
}

FileFormat FileFormatOf(Rows::Format format) {
  switch (format) {
    case Rows::CSV:
      return FileFormat::kCsv;
    case Rows::TSV:
      return FileFormat::kTsv;
    case Rows::TEXT:
      return FileFormat::kText;
    default:
      return FileFormat::kJsonLines;
  }
}

absl::StatusOr<v1::DatasetColumns> ResolveColumns(const std::string& path,
                                                  const v1::DatasetColumns& columns) {
  v1::DatasetColumns filled = columns;
  if (filled.task() == Rows::TASK_UNSPECIFIED) filled.set_task(Rows::CLASSIFICATION);
  filled.set_format(FormatOf(columns.format(), path));
  THAW_ASSIGN_OR_RETURN(const std::vector<std::string> fields,
                        FirstRowFields(path, FileFormatOf(filled.format())));
  if (filled.task() == Rows::COMPLETION) {
    if (NamesNone(columns) && HasField(fields, "messages") && !HasField(fields, "prompt")) {
      filled.set_messages_column("messages");
    }
    if (!filled.messages_column().empty()) return filled;
  }
  for (const UsualColumn& column : ColumnsOf(filled.task())) {
    if (!Get(filled, column.field).empty()) continue;
    const std::string name = ByConvention(column, fields);
    // A column has one meaning.
    const bool taken = std::any_of(std::begin(kColumns), std::end(kColumns),
                                   [&](const char* field) { return Get(filled, field) == name; });
    Set(&filled, column.field, taken ? column.usual : name);
  }
  return filled;
}

std::vector<FieldViolation> ViolationsIn(const v1::DatasetColumns& columns, Rows::Format format) {
  std::vector<FieldViolation> violations;
  const auto add = [&](const char* field, const std::string& description) {
    violations.push_back({absl::StrCat("columns.", field), description});
  };
  if (!Rows::Format_IsValid(columns.format())) {
    add("format", absl::StrCat(static_cast<int>(columns.format()),
                               " is not known: give JSONL, CSV, TSV or TEXT"));
  }
  if (!Rows::Task_IsValid(columns.task())) {
    add("task", absl::StrCat(static_cast<int>(columns.task()),
                             " is not known: give CLASSIFICATION, MULTI_LABEL, REGRESSION, "
                             "LANGUAGE_MODELING, COMPLETION or SEQUENCE_TO_SEQUENCE"));
    return violations;
  }
  const Rows::Task task =
      columns.task() == Rows::TASK_UNSPECIFIED ? Rows::CLASSIFICATION : columns.task();
  const std::vector<UsualColumn> known = ColumnsOf(task);
  const auto name_of = [&](const char* field) {
    const std::string given = Get(columns, field);
    if (!given.empty() || !columns.messages_column().empty()) return given;
    for (const UsualColumn& column : known) {
      if (std::string_view(column.field) == field) return std::string(column.usual);
    }
    return given;
  };
  for (const char* field : kColumns) {
    const std::string name = Get(columns, field);
    if (name.empty()) continue;
    if (!Has(known, field)) {
      add(field, absl::StrCat("is set, but rows of ", Rows::Task_Name(task),
                              " have no such column: leave it empty"));
    } else if (name.size() > kLongestColumn) {
      add(field, absl::StrCat("is longer than ", kLongestColumn, " bytes"));
    }
  }
  for (const char* field : kColumns) {
    for (const char* other : kColumns) {
      if (other == field) break;
      if (name_of(field).empty() || name_of(other) != name_of(field)) continue;
      add(field, absl::StrCat("names the same column as ", other, ": give another"));
    }
  }
  if (!columns.messages_column().empty() &&
      !(columns.prompt_column().empty() && columns.completion_column().empty())) {
    add("messages_column",
        "is set beside prompt_column or completion_column: a file holds conversations or prompts, "
        "so give one or the other");
  }
  const bool json = FileFormatOf(format) == FileFormat::kJsonLines;
  const std::string format_name = Rows::Format_Name(format);
  if (!json && task == Rows::MULTI_LABEL) {
    add("task", absl::StrCat("is MULTI_LABEL, but a field of ", format_name,
                             " holds no array of labels: give JSON Lines"));
  }
  if (!json && !columns.messages_column().empty()) {
    add("messages_column", absl::StrCat("is set, but a field of ", format_name,
                                        " holds no conversation: give JSON Lines"));
  }
  if (format != Rows::TEXT) return violations;
  for (const char* field : kColumns) {
    if (std::string_view(field) == "text_column" || Get(columns, field).empty()) continue;
    add(field, absl::StrCat("is set, but plain text has the one column \"", kPlainTextColumn,
                            "\": leave it empty, or give JSON Lines, CSV or TSV"));
  }
  if (!Has(known, "text_column")) {
    add("task", absl::StrCat("is ", Rows::Task_Name(task),
                             ", but plain text has one column only: give JSON Lines, CSV or TSV"));
  } else if (name_of("text_column") != kPlainTextColumn) {
    add("text_column", absl::StrCat("is \"", columns.text_column(),
                                    "\", but the column of plain text is called \"",
                                    kPlainTextColumn, "\": leave it empty"));
  }
  return violations;
}

void CopyColumns(const v1::DatasetColumns& columns, Rows* summary) {
  summary->set_task(columns.task());
  summary->set_format(columns.format());
  for (const char* field : kColumns) Set(summary, field, Get(columns, field));
}

v1::DatasetColumns ColumnsIn(const Rows& summary) {
  v1::DatasetColumns columns;
  columns.set_task(summary.task());
  columns.set_format(summary.format());
  for (const char* field : kColumns) Set(&columns, field, Get(summary, field));
  return columns;
}

bool SameColumns(const v1::DatasetColumns& columns, const Rows& summary) {
  const Rows::Task task =
      summary.task() == Rows::TASK_UNSPECIFIED ? Rows::CLASSIFICATION : summary.task();
  return task == columns.task() &&
         FileFormatOf(summary.format()) == FileFormatOf(columns.format()) &&
         std::all_of(std::begin(kColumns), std::end(kColumns),
                     [&](const char* field) { return Get(columns, field) == Get(summary, field); });
}

DatasetSchema SchemaOf(const Rows& summary) {
  DatasetSchema schema = {.text_column = summary.text_column(),
                          .text_pair_column = summary.text_pair_column(),
                          .label_column = summary.label_column(),
                          .format = FileFormatOf(summary.format())};
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
