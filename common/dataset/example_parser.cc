#include "common/dataset/example_parser.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/dataset/line_columns.h"

namespace thaw {
namespace {

constexpr size_t kMaxNameBytes = 64;
constexpr absl::string_view kRoles[] = {"system", "user", "assistant", "tool"};

bool HasControlCharacter(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](unsigned char c) { return c < 0x20 || c == 0x7F; });
}

// What a column that cannot be used is mended by.
constexpr char kGiveText[] = "give it some text, or leave the row out";

ValueProblem WrongKind(const FieldValue& value, absl::string_view wanted) {
  return {absl::StrCat("is ", KindName(value.kind), ", must be ", wanted),
          absl::StrCat("give ", wanted)};
}

ValueProblem At(size_t index, absl::string_view field, ValueProblem problem) {
  problem.path = absl::StrCat("[", index, "]", field.empty() ? "" : ".", field);
  return problem;
}

ValueProblem TextProblem(const FieldValue& value, bool may_be_blank = false) {
  if (value.kind != ValueKind::kString) return WrongKind(value, "a string");
  if (!may_be_blank && IsBlank(value.text)) return {"is empty", kGiveText};
  if (value.text.find('\0') != std::string::npos) {
    return {"contains the character U+0000", "take the character out"};
  }
  return {};
}

ValueProblem ClassNameProblem(const std::string& name, const DatasetLimits& limits) {
  if (IsBlank(name)) return {"is empty", "give the row a label, or leave it out"};
  if (static_cast<int64_t>(name.size()) > limits.max_label_bytes) {
    return {
        absl::StrCat("has ", name.size(), " bytes, a class name at most ", limits.max_label_bytes),
        "give a shorter one; is this the column of the labels?"};
  }
  if (HasControlCharacter(name)) {
    return {"contains a control character", "take the character out"};
  }
  return {};
}

ValueProblem LabelProblem(const FieldValue& value, const DatasetLimits& limits) {
  if (value.kind == ValueKind::kInteger) return {};
  if (value.kind != ValueKind::kString) return WrongKind(value, "a string or an integer");
  return ClassNameProblem(value.text, limits);
}

ValueProblem TooManyItems(const ColumnValue& column, const DatasetLimits& limits) {
  if (column.item_count <= limits.max_labels) return {};
  return {
      absl::StrCat("has ", column.item_count, " elements; ", limits.max_labels, " are the most"),
      "cut it down"};
}

ValueProblem LabelsProblem(const ColumnValue& column, const DatasetLimits& limits) {
  if (column.value.kind != ValueKind::kArray) {
    return WrongKind(column.value, "an array of strings, such as [\"a\", \"b\"] or []");
  }
  std::set<std::string_view> names;
  for (size_t i = 0; i < column.items.size(); ++i) {
    const FieldValue& value = column.items[i].value;
    if (value.kind != ValueKind::kString) return At(i, "", WrongKind(value, "a string"));
    ValueProblem problem = ClassNameProblem(value.text, limits);
    if (!problem.reason.empty()) return At(i, "", std::move(problem));
    if (names.insert(value.text).second) continue;
    return At(i, "", {"repeats a label of the same row", "name each label once"});
  }
  return TooManyItems(column, limits);
}

ValueProblem NumberProblem(const FieldValue& value, FileFormat format) {
  if (value.kind == ValueKind::kInteger || value.kind == ValueKind::kHugeInteger ||
      value.kind == ValueKind::kNumber) {
    return {};
  }
  if (format == FileFormat::kJsonLines) return WrongKind(value, "a number");
  return {absl::StrCat("is \"", Printable(value.text, kMaxNameBytes), "\", must be a number"),
          "write it as 3 or -1.5e2, without spaces or separators of thousands"};
}

ValueProblem TurnProblem(const ArrayItem& turn, size_t index) {
  constexpr char kTurn[] = "an object with \"role\" and \"content\"";
  if (turn.value.kind != ValueKind::kObject) return At(index, "", WrongKind(turn.value, kTurn));
  const auto role = [&](ValueProblem problem) { return At(index, "role", std::move(problem)); };
  if (turn.role.kind == ValueKind::kMissing) return role({"is missing", "say whose turn it is"});
  if (turn.role.kind != ValueKind::kString) return role(WrongKind(turn.role, "a string"));
  if (std::find(std::begin(kRoles), std::end(kRoles), turn.role.text) == std::end(kRoles)) {
    return role({absl::StrCat("is \"", Printable(turn.role.text, 32), "\""),
                 "give system, user, assistant or tool"});
  }
  if (turn.role.text == "system" && index > 0) {
    return role({"is the system's, which only the first may be", "put it first or leave it out"});
  }
  if (turn.content.kind == ValueKind::kMissing) {
    return At(index, "content", {"is missing", "give what was said"});
  }
  ValueProblem problem = TextProblem(turn.content, turn.role.text != "assistant");
  return problem.reason.empty() ? problem : At(index, "content", std::move(problem));
}

bool IsAssistant(const ArrayItem& turn) { return turn.role.text == "assistant"; }

// Lacks its answer where only the assistant's turn is missing.
ValueProblem ConversationProblem(const ColumnValue& column, const DatasetLimits& limits,
                                 bool needs_answer) {
  if (column.value.kind != ValueKind::kArray) {
    return WrongKind(column.value, "an array of objects with \"role\" and \"content\"");
  }
  if (column.items.empty()) return {"is an empty conversation", "leave the row out"};
  for (size_t i = 0; i < column.items.size(); ++i) {
    ValueProblem problem = TurnProblem(column.items[i], i);
    if (!problem.reason.empty()) return problem;
  }
  if (std::all_of(column.items.begin(), column.items.end(), IsAssistant)) {
    return {"holds only turns of the assistant; there is nothing that it answers",
            "put the user's turn before them"};
  }
  if (needs_answer && std::none_of(column.items.begin(), column.items.end(), IsAssistant)) {
    return {.reason = "holds no turn of the assistant to learn from",
            .remedy = "add one, or leave the row out",
            .lacks_answer = true};
  }
  return TooManyItems(column, limits);
}

}  // namespace

bool ExampleParser::Parse(SourceRow* row, Example* example, std::vector<DatasetIssue>* issues) {
  if (!row->fault.reason.empty()) {
    issues->push_back(row->fault);
    return false;
  }
  const bool has_answer_column = schema_.HasAnswerColumn();
  bool good = true;
  for (ColumnValue& column : row->columns) {
    const bool is_answer = has_answer_column && &column == &row->columns.back();
    ValueProblem problem;
    if (column.value.kind == ValueKind::kMissing) {
      problem = {.reason = absl::StrCat("is missing; ", ListedFields(row->names)),
                 .remedy = "add it, or name the right column in the upload",
                 .lacks_answer = is_answer};
    } else if (is_answer) {
      problem = AnswerProblem(column, row->line);
    } else if (schema_.form == ExampleForm::kConversation) {
      problem = ConversationProblem(column, limits_, !schema_.label_column.empty());
    } else {
      problem = TextProblem(column.value);
    }
    if (problem.reason.empty()) continue;
    good = false;
    issues->push_back({row->line, row->byte_offset,
                       absl::StrCat(Printable(column.name, kMaxNameBytes), problem.path),
                       std::move(problem.reason), std::move(problem.remedy), problem.lacks_answer});
  }
  if (!good) return false;
  Fill(row->line, &row->columns, example);
  return true;
}

ValueProblem ExampleParser::AnswerProblem(const ColumnValue& column, int64_t line) {
  switch (schema_.form) {
    case ExampleForm::kLabels:
      return LabelsProblem(column, limits_);
    case ExampleForm::kNumber:
      return NumberProblem(column.value, schema_.format);
    case ExampleForm::kAnswer:
      return TextProblem(column.value);
    default:
      break;
  }
  ValueProblem problem = LabelProblem(column.value, limits_);
  if (!problem.reason.empty()) return problem;
  const LabelKind kind =
      column.value.kind == ValueKind::kInteger ? LabelKind::kInteger : LabelKind::kString;
  if (label_kind_ == LabelKind::kNone) {
    label_kind_ = kind;
    label_kind_line_ = line;
  } else if (label_kind_ != kind) {
    return {absl::StrCat("is ", KindName(column.value.kind), ", but ",
                         label_kind_ == LabelKind::kInteger ? "an integer" : "a string",
                         " on line ", label_kind_line_),
            "write all labels as strings, or all as integers"};
  }
  return {};
}

void ExampleParser::Fill(int64_t line, std::vector<ColumnValue>* columns, Example* example) const {
  *example = {};
  example->line = line;
  if (schema_.form == ExampleForm::kConversation) {
    for (ArrayItem& turn : columns->front().items) {
      example->turns.push_back({std::move(turn.role.text), std::move(turn.content.text)});
    }
    return;
  }
  example->text = std::move(columns->front().value.text);
  if (!schema_.text_pair_column.empty()) {
    example->text_pair = std::move((*columns)[1].value.text);
  }
  if (!schema_.HasAnswerColumn()) return;
  ColumnValue& answer = columns->back();
  switch (schema_.form) {
    case ExampleForm::kLabels:
      for (ArrayItem& item : answer.items) example->labels.push_back(std::move(item.value.text));
      break;
    case ExampleForm::kNumber:
      example->number = answer.number;
      break;
    case ExampleForm::kAnswer:
      example->answer = std::move(answer.value.text);
      break;
    default:
      example->label = std::move(answer.value.text);
      example->label_kind = label_kind_;
  }
}

}  // namespace thaw
