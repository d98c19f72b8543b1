#include "common/dataset/example_parser.h"

#include <algorithm>
#include <string>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace thaw {
namespace {

constexpr size_t kMaxNameBytes = 64;
constexpr size_t kMaxReasonBytes = 200;
// Together they keep a list of a line's fields below 260 bytes.
constexpr size_t kMaxListedFields = 8;
constexpr size_t kMaxListedNameBytes = 24;

enum class ValueKind {
  kMissing,
  kNull,
  kBoolean,
  kInteger,
  kHugeInteger,
  kNumber,
  kString,
  kArray,
  kObject
};

const char* KindName(ValueKind kind) {
  switch (kind) {
    case ValueKind::kMissing:
      return "missing";
    case ValueKind::kNull:
      return "null";
    case ValueKind::kBoolean:
      return "a boolean";
    case ValueKind::kInteger:
      return "an integer";
    case ValueKind::kHugeInteger:
      return "an integer of more than 63 bits";
    case ValueKind::kNumber:
      return "a number with a fraction or exponent";
    case ValueKind::kString:
      return "a string";
    case ValueKind::kArray:
      return "an array";
    case ValueKind::kObject:
      return "an object";
  }
  return "unknown";
}

// The value of one column, as far as a column may hold it.
struct ColumnValue {
  std::string_view name = {};
  ValueKind kind = ValueKind::kMissing;
  std::string text = {};  // of a string, or of an integer in decimal
};

// nlohmann's SAX interface: fills the columns, stops at the first thing that is not strict JSON.
class LineHandler {
 public:
  LineHandler(std::vector<ColumnValue>* columns, int max_depth)
      : columns_(columns), max_depth_(max_depth) {}

  bool null() { return Value(ValueKind::kNull, {}); }
  bool boolean(bool) { return Value(ValueKind::kBoolean, {}); }
  bool number_integer(int64_t value) { return Value(ValueKind::kInteger, std::to_string(value)); }
  bool number_unsigned(uint64_t value) {
    return value > INT64_MAX ? Value(ValueKind::kHugeInteger, {})
                             : Value(ValueKind::kInteger, std::to_string(value));
  }
  bool number_float(double, const std::string&) { return Value(ValueKind::kNumber, {}); }
  bool string(std::string& value) { return Value(ValueKind::kString, std::move(value)); }
  bool binary(std::vector<uint8_t>&) { return false; }
  bool start_object(size_t) { return Begin(ValueKind::kObject); }
  bool end_object() { return --depth_, true; }
  bool start_array(size_t) { return Begin(ValueKind::kArray); }
  bool end_array() { return --depth_, true; }

  bool key(std::string& name) {
    if (depth_ != 1) return true;
    column_ = nullptr;
    for (ColumnValue& column : *columns_) {
      if (column.name == name) column_ = &column;
    }
    if (fields_.size() < kMaxListedFields) {
      absl::StrAppend(&listed_fields_, fields_.empty() ? "" : ", ", "\"",
                      Printable(name, kMaxListedNameBytes), "\"");
    }
    const auto [field, inserted] = fields_.insert(std::move(name));
    if (inserted) return true;
    field_ = Printable(*field, kMaxNameBytes);
    reason_ = "occurs twice in one object";
    return false;
  }

  bool parse_error(size_t position, const std::string& last_token,
                   const nlohmann::json::exception& error) {
    error_position_ = static_cast<int64_t>(position);
    if (error.id == 406) {
      reason_ = "holds a number that is too large for a 64-bit floating-point value";
      return false;
    }
    std::string what = error.what();
    // The library quotes what it read last, which can be the whole line.
    const std::string quoted = "; last read: '" + last_token + "'";
    if (const size_t at = what.find(quoted); at != std::string::npos) what.erase(at, quoted.size());
    const size_t cause = what.find("syntax error ");
    reason_ = absl::StrCat(
        "is not JSON: ",
        Printable(cause == std::string::npos ? what : what.substr(cause + sizeof("syntax error")),
                  kMaxReasonBytes));
    return false;
  }

  // Why parsing stopped; empty if it did not.
  const std::string& reason() const { return reason_; }
  const std::string& field() const { return field_; }
  // 1-based in the line; 0 when the line as a whole is meant.
  int64_t error_position() const { return error_position_; }
  // The names of the line's first fields, for messages.
  std::string ListedFields() const {
    if (fields_.empty()) return "it has no fields";
    return absl::StrCat("it has ", listed_fields_,
                        fields_.size() > kMaxListedFields ? " and others" : "");
  }

 private:
  bool Value(ValueKind kind, std::string text) {
    if (depth_ == 0) {
      reason_ = absl::StrCat("is ", KindName(kind), ", not an object such as {\"text\": …}");
      return false;
    }
    if (depth_ == 1 && column_ != nullptr) {
      column_->kind = kind;
      column_->text = std::move(text);
    }
    return true;
  }

  bool Begin(ValueKind kind) {
    if ((depth_ > 0 || kind == ValueKind::kArray) && !Value(kind, {})) return false;
    if (++depth_ <= max_depth_) return true;
    reason_ = absl::StrCat("is nested deeper than ", max_depth_, " levels");
    return false;
  }

  std::vector<ColumnValue>* const columns_;
  const int max_depth_;
  int depth_ = 0;
  ColumnValue* column_ = nullptr;
  std::unordered_set<std::string> fields_;
  std::string listed_fields_;
  std::string reason_;
  std::string field_;
  int64_t error_position_ = 0;
};

bool HasControlCharacter(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](unsigned char c) { return c < 0x20 || c == 0x7F; });
}

// Why a text column cannot be used, or nothing.
std::string TextProblem(const ColumnValue& column) {
  if (column.kind != ValueKind::kString) {
    return absl::StrCat("is ", KindName(column.kind), ", must be a string");
  }
  if (IsBlank(column.text)) return "is empty";
  if (column.text.find('\0') != std::string::npos) return "contains the character U+0000";
  return "";
}

std::string LabelProblem(const ColumnValue& column, const DatasetLimits& limits) {
  if (column.kind == ValueKind::kInteger) return "";
  if (column.kind != ValueKind::kString) {
    return absl::StrCat("is ", KindName(column.kind), ", must be a string or an integer");
  }
  if (IsBlank(column.text)) return "is empty";
  if (static_cast<int64_t>(column.text.size()) > limits.max_label_bytes) {
    return absl::StrCat("has ", column.text.size(), " bytes, a class name at most ",
                        limits.max_label_bytes);
  }
  if (HasControlCharacter(column.text)) return "contains a control character";
  return "";
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

  std::vector<ColumnValue> columns = {{schema_.text_column}};
  if (!schema_.text_pair_column.empty()) columns.push_back({schema_.text_pair_column});
  if (!schema_.label_column.empty()) columns.push_back({schema_.label_column});
  LineHandler handler(&columns, limits_.max_depth);
  if (!nlohmann::json::sax_parse(line.text.begin(), line.text.end(), &handler)) {
    return line_issue(handler.error_position(), handler.field(), handler.reason());
  }

  bool good = true;
  for (ColumnValue& column : columns) {
    const bool is_label = !schema_.label_column.empty() && &column == &columns.back();
    std::string problem;
    if (column.kind == ValueKind::kMissing) {
      problem = absl::StrCat("is missing; ", handler.ListedFields());
    } else {
      problem = is_label ? LabelProblem(column, limits_) : TextProblem(column);
    }
    if (is_label && problem.empty()) {
      example->label_kind =
          column.kind == ValueKind::kInteger ? LabelKind::kInteger : LabelKind::kString;
      if (label_kind_ == LabelKind::kNone) {
        label_kind_ = example->label_kind;
        label_kind_line_ = line.number;
      } else if (label_kind_ != example->label_kind) {
        problem = absl::StrCat("is ", KindName(column.kind), ", but ",
                               label_kind_ == LabelKind::kInteger ? "an integer" : "a string",
                               " on line ", label_kind_line_, "; all must be of one kind");
      }
    }
    if (!problem.empty()) {
      good = line_issue(0, Printable(column.name, kMaxNameBytes), std::move(problem));
    }
  }
  if (!good) return false;
  example->line = line.number;
  example->text = std::move(columns[0].text);
  if (!schema_.text_pair_column.empty()) example->text_pair = std::move(columns[1].text);
  if (!schema_.label_column.empty()) example->label = std::move(columns.back().text);
  return true;
}

bool IsBlank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

std::string Printable(std::string_view text, size_t max_bytes) {
  std::string out;
  for (const char c : text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    const bool begins_character = (byte & 0xC0) != 0x80;
    if (begins_character && out.size() + 4 > max_bytes) return out + "...";
    if (byte < 0x20 || byte == 0x7F) {
      absl::StrAppend(&out, "\\x", absl::Hex(byte, absl::kZeroPad2));
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace thaw
