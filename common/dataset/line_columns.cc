#include "common/dataset/line_columns.h"

#include <algorithm>
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
// Depth of a line's fields, of the elements of an array among them, of the fields of those.
constexpr int kFieldDepth = 1;
constexpr int kItemDepth = 2;
constexpr int kItemFieldDepth = 3;

// nlohmann's SAX interface: fills the columns, stops at the first thing that is not strict JSON.
class LineHandler {
 public:
  LineHandler(std::vector<ColumnValue>* columns, const DatasetLimits& limits)
      : columns_(columns), limits_(limits) {}

  bool null() { return Value(ValueKind::kNull, {}); }
  bool boolean(bool) { return Value(ValueKind::kBoolean, {}); }
  bool number_integer(int64_t value) {
    return Value(ValueKind::kInteger, std::to_string(value), static_cast<double>(value));
  }
  bool number_unsigned(uint64_t value) {
    const auto number = static_cast<double>(value);
    return value > INT64_MAX ? Value(ValueKind::kHugeInteger, {}, number)
                             : Value(ValueKind::kInteger, std::to_string(value), number);
  }
  bool number_float(double value, const std::string&) {
    return Value(ValueKind::kNumber, {}, value);
  }
  bool string(std::string& value) { return Value(ValueKind::kString, std::move(value)); }
  bool binary(std::vector<uint8_t>&) { return false; }
  bool start_object(size_t) { return Begin(ValueKind::kObject); }
  bool end_object() { return --depth_, true; }
  bool start_array(size_t) { return Begin(ValueKind::kArray); }
  bool end_array() { return --depth_, true; }

  bool key(std::string& name) {
    if (depth_ == kItemFieldDepth && ReadsItems()) return ItemKey(name);
    if (depth_ != kFieldDepth) return true;
    column_ = nullptr;
    for (ColumnValue& column : *columns_) {
      if (column.name == name) column_ = &column;
    }
    names_.push_back(name);
    const auto [field, inserted] = fields_.insert(std::move(name));
    return inserted || OccursTwice(*field);
  }

  bool parse_error(size_t position, const std::string& last_token,
                   const nlohmann::json::exception& error) {
    fault_.position = static_cast<int64_t>(position);
    if (error.id == 406) {
      fault_.reason = "holds a number that is too large for a 64-bit floating-point value";
      fault_.remedy = "write it as a string, or leave the field out";
      return false;
    }
    std::string what = error.what();
    // The library quotes what it read last, which can be the whole line.
    const std::string quoted = "; last read: '" + last_token + "'";
    if (const size_t at = what.find(quoted); at != std::string::npos) what.erase(at, quoted.size());
    const size_t cause = what.find("syntax error ");
    fault_.reason = absl::StrCat(
        "is not JSON: ",
        Printable(cause == std::string::npos ? what : what.substr(cause + sizeof("syntax error")),
                  kMaxReasonBytes));
    fault_.remedy = "write one JSON object a line, as a JSON library does";
    return false;
  }

  const LineFault& fault() const { return fault_; }
  std::vector<std::string>& names() { return names_; }

 private:
  // Inside the array of a column whose elements are wanted.
  bool ReadsItems() const {
    return column_ != nullptr && column_->reads_items && column_->value.kind == ValueKind::kArray;
  }

  bool OccursTwice(std::string_view name) {
    fault_.field = Printable(name, kMaxNameBytes);
    fault_.reason = "occurs twice in one object";
    fault_.remedy = "keep one of them";
    return false;
  }

  bool ItemKey(const std::string& name) {
    item_field_ = nullptr;
    if (column_->item_count > static_cast<int64_t>(column_->items.size())) return true;
    ArrayItem& item = column_->items.back();
    if (name == "role") item_field_ = &item.role;
    if (name == "content") item_field_ = &item.content;
    if (item_field_ == nullptr || item_field_->kind == ValueKind::kMissing) return true;
    return OccursTwice(name);
  }

  bool Value(ValueKind kind, std::string text, double number = 0) {
    if (depth_ == 0) {
      fault_.reason = absl::StrCat("is ", KindName(kind), ", not an object such as {\"text\": …}");
      fault_.remedy = "write every row as an object of named fields";
      return false;
    }
    if (depth_ == kFieldDepth && column_ != nullptr) {
      column_->value = {kind, std::move(text)};
      column_->number = number;
    } else if (depth_ == kItemDepth && ReadsItems()) {
      item_field_ = nullptr;
      ++column_->item_count;
      if (static_cast<int>(column_->items.size()) < limits_.max_labels) {
        column_->items.push_back({{kind, std::move(text)}});
      }
    } else if (depth_ == kItemFieldDepth && item_field_ != nullptr && ReadsItems()) {
      *item_field_ = {kind, std::move(text)};
    }
    return true;
  }

  bool Begin(ValueKind kind) {
    if ((depth_ > 0 || kind == ValueKind::kArray) && !Value(kind, {})) return false;
    if (++depth_ <= limits_.max_depth) return true;
    fault_.reason = absl::StrCat("is nested deeper than ", limits_.max_depth, " levels");
    fault_.remedy = "leave the nested field out";
    return false;
  }

  std::vector<ColumnValue>* const columns_;
  const DatasetLimits& limits_;
  int depth_ = 0;
  ColumnValue* column_ = nullptr;
  FieldValue* item_field_ = nullptr;
  std::unordered_set<std::string> fields_;
  std::vector<std::string> names_;  // of its fields, in order
  LineFault fault_;
};

}  // namespace

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

bool ReadColumns(std::string_view text, const DatasetLimits& limits,
                 std::vector<ColumnValue>* columns, std::vector<std::string>* names,
                 LineFault* fault) {
  LineHandler handler(columns, limits);
  const bool good = nlohmann::json::sax_parse(text.begin(), text.end(), &handler);
  if (good) {
    *names = std::move(handler.names());
  } else {
    *fault = handler.fault();
  }
  return good;
}

std::string ListedFields(std::span<const std::string> names) {
  if (names.empty()) return "it has no fields";
  std::string listed = "it has ";
  for (size_t i = 0; i < std::min(names.size(), kMaxListedFields); ++i) {
    absl::StrAppend(&listed, i == 0 ? "" : ", ", "\"", Printable(names[i], kMaxListedNameBytes),
                    "\"");
  }
  return listed + (names.size() > kMaxListedFields ? " and others" : "");
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
