// One line of a JSON Lines dataset into an Example.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/dataset/dataset_schema.h"
#include "common/dataset/line_reader.h"

namespace thaw {

// Remembers which kind of label the file's first label was, so lines are to be parsed in order. One
// thread at a time.
class ExampleParser {
 public:
  ExampleParser(const DatasetSchema& schema, const DatasetLimits& limits)
      : schema_(schema), limits_(limits) {}

  // True when `example` was filled. Otherwise everything found wrong is appended to `issues`: the
  // place where the line stops being JSON, or else one issue for each column that cannot be used.
  bool Parse(const Line& line, Example* example, std::vector<DatasetIssue>* issues);

 private:
  const DatasetSchema schema_;
  const DatasetLimits limits_;
  LabelKind label_kind_ = LabelKind::kNone;
  int64_t label_kind_line_ = 0;
};

// Whether a line holds nothing but JSON's white space.
bool IsBlank(std::string_view text);

// About `max_bytes` of the UTF-8 `text` with control characters escaped, cut between characters:
// for messages.
std::string Printable(std::string_view text, size_t max_bytes);

}  // namespace thaw
