// The columns of one JSON Lines line, read strictly and without building a tree of the whole line.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/dataset/dataset_schema.h"

namespace thaw {

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

// "an integer", "missing" and so on: for messages.
const char* KindName(ValueKind kind);

struct FieldValue {
  ValueKind kind = ValueKind::kMissing;
  std::string text = {};  // of a string, or of an integer in decimal
};

// An element of an array: a value, or an object of which role and content are read.
struct ArrayItem {
  FieldValue value;
  FieldValue role = {};
  FieldValue content = {};
};

// The value of one column, as far as a column may hold it.
struct ColumnValue {
  std::string_view name = {};
  bool reads_items = false;  // wanted by the caller: the elements of an array
  FieldValue value = {};
  double number = 0;                  // of whatever is a number
  std::vector<ArrayItem> items = {};  // at most limits.max_labels of them
  int64_t item_count = 0;             // all of them
};

// What is wrong with a line as JSON.
struct LineFault {
  int64_t position = 0;  // 1-based in the line; 0 when the line as a whole is meant
  std::string field;     // printable; empty unless one is meant
  std::string reason;
  std::string remedy;
};

// Fills `columns`, found by their names among the line's own fields. `names` become those of all of
// its fields, in order. False, with `fault` filled, at the first thing that
// is not strict JSON: one object, no repeated keys, no number beyond a double, no deeper than
// limits.max_depth. The text holds no NUL byte.
bool ReadColumns(std::string_view text, const DatasetLimits& limits,
                 std::vector<ColumnValue>* columns, std::vector<std::string>* names,
                 LineFault* fault);

// "it has \"a\", \"b\" and others": names of fields, for messages.
std::string ListedFields(std::span<const std::string> names);

// Whether a text holds nothing but JSON's white space.
bool IsBlank(std::string_view text);

// About `max_bytes` of the UTF-8 `text` with control characters escaped, cut between characters:
// for messages.
std::string Printable(std::string_view text, size_t max_bytes);

}  // namespace thaw
