// One line of a JSON Lines dataset into an Example.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/dataset/dataset_schema.h"
#include "common/dataset/line_reader.h"

namespace thaw {

struct ColumnValue;

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
  // What is wrong with the column of the answer, or nothing.
  std::string AnswerProblem(const ColumnValue& column, int64_t line);
  void Fill(int64_t line, std::vector<ColumnValue>* columns, Example* example) const;

  const DatasetSchema schema_;
  const DatasetLimits limits_;
  LabelKind label_kind_ = LabelKind::kNone;
  int64_t label_kind_line_ = 0;
};

}  // namespace thaw
