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

std::string WrongKind(const FieldValue& value, absl::string_view wanted) {
  return absl::StrCat("is ", KindName(value.kind), ", must be ", wanted);
}

// Why a text cannot be used, or nothing.
std::string TextProblem(const FieldValue& value, bool may_be_blank = false) {
  if (value.kind != ValueKind::kString) return WrongKind(value, "a string");
  if (!may_be_blank && IsBlank(value.text)) return "is empty";
  if (value.text.find('\0') != std::string::npos) return "contains the character U+0000";
  return "";
}

std::string ClassNameProblem(const std::string& name, const DatasetLimits& limits) {
  if (IsBlank(name)) return "is empty";
  if (static_cast<int64_t>(name.size()) > limits.max_label_bytes) {
    return absl::StrCat("has ", name.size(), " bytes, a class name at most ",
                        limits.max_label_bytes);
  }
  if (HasControlCharacter(name)) return "contains a control character";
  return "";
}

std::string LabelProblem(const FieldValue& value, const DatasetLimits& limits) {
  if (value.kind == ValueKind::kInteger) return "";
  if (value.kind != ValueKind::kString) return WrongKind(value, "a string or an integer");
  return ClassNameProblem(value.text, limits);
}

std::string TooManyItems(const ColumnValue& column, const DatasetLimits& limits) {
  if (column.item_count <= limits.max_labels) return "";
  return absl::StrCat("has ", column.item_count, " elements; ", limits.max_labels, " are the most");
}

std::string LabelsProblem(const ColumnValue& column, const DatasetLimits& limits) {
  if (column.value.kind != ValueKind::kArray) {
    return WrongKind(column.value, "an array of strings, such as [\"a\", \"b\"] or []");
  }
  std::set<std::string_view> names;
  for (size_t i = 0; i < column.items.size(); ++i) {
    const FieldValue& value = column.items[i].value;
    std::string problem = value.kind == ValueKind::kString ? ClassNameProblem(value.text, limits)
                                                           : WrongKind(value, "a string");
    if (problem.empty() && !names.insert(value.text).second) {
      problem = "repeats a label of the same row";
    }
    if (!problem.empty()) return absl::StrCat("at index ", i, " ", problem);
  }
  return TooManyItems(column, limits);
}

std::string NumberProblem(const FieldValue& value) {
  if (value.kind == ValueKind::kInteger || value.kind == ValueKind::kHugeInteger ||
      value.kind == ValueKind::kNumber) {
    return "";
  }
  return WrongKind(value, "a number");
}

std::string TurnProblem(const ArrayItem& turn, bool first) {
  if (turn.value.kind != ValueKind::kObject) {
    return WrongKind(turn.value, "an object with \"role\" and \"content\"");
  }
  if (turn.role.kind == ValueKind::kMissing) return "lacks \"role\"";
  if (turn.role.kind != ValueKind::kString) return "has a \"role\" that is no string";
  if (std::find(std::begin(kRoles), std::end(kRoles), turn.role.text) == std::end(kRoles)) {
    return absl::StrCat("has the role \"", Printable(turn.role.text, 32),
                        "\"; known are system, user, assistant and tool");
  }
  if (turn.role.text == "system" && !first) return "is the system's, which only the first may be";
  if (turn.content.kind == ValueKind::kMissing) return "lacks \"content\"";
  const std::string problem = TextProblem(turn.content, turn.role.text != "assistant");
  return problem.empty() ? "" : absl::StrCat("has a \"content\" that ", problem);
}

bool IsAssistant(const ArrayItem& turn) { return turn.role.text == "assistant"; }

// `lacks_answer`: only the assistant's turn is missing.
std::string ConversationProblem(const ColumnValue& column, const DatasetLimits& limits,
                                bool needs_answer, bool* lacks_answer) {
  if (column.value.kind != ValueKind::kArray) {
    return WrongKind(column.value, "an array of objects with \"role\" and \"content\"");
  }
  if (column.items.empty()) return "is an empty conversation";
  for (size_t i = 0; i < column.items.size(); ++i) {
    const std::string problem = TurnProblem(column.items[i], i == 0);
    if (!problem.empty()) return absl::StrCat("at index ", i, " ", problem);
  }
  if (std::all_of(column.items.begin(), column.items.end(), IsAssistant)) {
    return "holds only turns of the assistant; there is nothing that it answers";
  }
  if (needs_answer && std::none_of(column.items.begin(), column.items.end(), IsAssistant)) {
    *lacks_answer = true;
    return "holds no turn of the assistant to learn from";
  }
  return TooManyItems(column, limits);
}

}  // namespace

bool ExampleParser::Parse(const Line& line, Example* example, std::vector<DatasetIssue>* issues) {
  const auto line_issue = [&](int64_t position, std::string field, std::string reason) {
    const int64_t last = static_cast<int64_t>(line.text.size());
    const int64_t inside = std::clamp<int64_t>(position - 1, 0, last);
    issues->push_back(
        {line.number, line.byte_offset + inside, std::move(field), std::move(reason)});
    return false;
  };
  if (line.too_long) {
    return line_issue(0, "", absl::StrCat("is longer than ", limits_.max_line_bytes, " bytes"));
  }
  // The library takes a NUL for the end of its input and skips a byte order mark.
  if (const size_t nul = line.text.find('\0'); nul != std::string_view::npos) {
    return line_issue(static_cast<int64_t>(nul) + 1, "",
                      "contains a NUL byte; the file must be UTF-8 text");
  }
  if (line.text.starts_with("\xEF\xBB\xBF")) {
    return line_issue(0, "", "begins with a byte order mark, which only the file may");
  }

  std::vector<ColumnValue> columns = {{.name = schema_.text_column}};
  if (!schema_.text_pair_column.empty()) columns.push_back({.name = schema_.text_pair_column});
  const bool has_answer_column = schema_.HasAnswerColumn();
  if (has_answer_column) columns.push_back({.name = schema_.label_column});
  const bool conversation = schema_.form == ExampleForm::kConversation;
  columns.back().reads_items = conversation || schema_.form == ExampleForm::kLabels;
  std::string listed;
  LineFault fault;
  if (!ReadColumns(line.text, limits_, &columns, &listed, &fault)) {
    return line_issue(fault.position, fault.field, fault.reason);
  }

  bool good = true;
  for (ColumnValue& column : columns) {
    const bool is_answer = has_answer_column && &column == &columns.back();
    std::string problem;
    bool lacks_answer = false;
    if (column.value.kind == ValueKind::kMissing) {
      problem = absl::StrCat("is missing; ", listed);
      lacks_answer = is_answer;
    } else if (is_answer) {
      problem = AnswerProblem(column, line.number);
    } else if (conversation) {
      problem = ConversationProblem(column, limits_, !schema_.label_column.empty(), &lacks_answer);
    } else {
      problem = TextProblem(column.value);
    }
    if (!problem.empty()) {
      good = line_issue(0, Printable(column.name, kMaxNameBytes), std::move(problem));
      issues->back().lacks_answer = lacks_answer;
    }
  }
  if (!good) return false;
  Fill(line.number, &columns, example);
  return true;
}

std::string ExampleParser::AnswerProblem(const ColumnValue& column, int64_t line) {
  switch (schema_.form) {
    case ExampleForm::kLabels:
      return LabelsProblem(column, limits_);
    case ExampleForm::kNumber:
      return NumberProblem(column.value);
    case ExampleForm::kAnswer:
      return TextProblem(column.value);
    default:
      break;
  }
  std::string problem = LabelProblem(column.value, limits_);
  if (!problem.empty()) return problem;
  const LabelKind kind =
      column.value.kind == ValueKind::kInteger ? LabelKind::kInteger : LabelKind::kString;
  if (label_kind_ == LabelKind::kNone) {
    label_kind_ = kind;
    label_kind_line_ = line;
  } else if (label_kind_ != kind) {
    return absl::StrCat("is ", KindName(column.value.kind), ", but ",
                        label_kind_ == LabelKind::kInteger ? "an integer" : "a string", " on line ",
                        label_kind_line_, "; all must be of one kind");
  }
  return "";
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
