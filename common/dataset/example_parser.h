// One row of a dataset into an Example.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/dataset/dataset_schema.h"
#include "common/dataset/row_source.h"

namespace thaw {

// What is wrong with a value; without a reason nothing is.
struct ValueProblem {
  std::string reason;
  std::string remedy = {};
  std::string path = {};  // from the column on: "[1].content"
  bool lacks_answer = false;
};

// Remembers which kind of label the file's first label was, so rows are to be parsed in order. One
// thread at a time.
class ExampleParser {
 public:
  ExampleParser(const DatasetSchema& schema, const DatasetLimits& limits)
      : schema_(schema), limits_(limits) {}

  // True when `example` was filled, for which the row's values are taken. Otherwise everything
  // found wrong is appended to `issues`: why the row cannot be read, or else one issue for each
  // column that cannot be used.
  bool Parse(SourceRow* row, Example* example, std::vector<DatasetIssue>* issues);

 private:
  ValueProblem AnswerProblem(const ColumnValue& column, int64_t line);
  void Fill(int64_t line, std::vector<ColumnValue>* columns, Example* example) const;

  const DatasetSchema schema_;
  const DatasetLimits limits_;
  LabelKind label_kind_ = LabelKind::kNone;
  int64_t label_kind_line_ = 0;
};

}  // namespace thaw
