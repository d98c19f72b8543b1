// Rows of comma- or tab-separated values, as RFC 4180 has them, below a line of column names.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/dataset/file_input.h"
#include "common/dataset/row_source.h"

namespace thaw {

// Strict: a field that begins with a quote ends with one and doubles those within; others hold
// none. Every row has a field for each column. Lines end with LF, CRLF or CR; within quotes they
// belong to the field, as they are. Fields are text; the answer of a kNumber must be one number as
// JSON writes it. Empty lines are skipped.
class DelimitedRows : public RowSource {
 public:
  DelimitedRows(ByteInput input, const DatasetSchema& schema, const DatasetLimits& limits);

  absl::StatusOr<bool> Next(SourceRow* row) override;

  int64_t lines() const override { return input_.lines(); }
  int64_t blank_lines() const override { return blank_lines_; }
  int64_t bytes_read() const override { return input_.offset(); }
  bool byte_order_mark() const override { return input_.byte_order_mark(); }

 private:
  // Reads a record into text_ and ends_, its place and what is wrong with it into `row`; false at
  // the end of the file.
  bool ReadRecord(SourceRow* row);
  void EndField() { ends_.push_back(static_cast<int32_t>(text_.size())); }
  std::string_view Field(size_t i) const;
  // Of the first record: what the columns are, or why none can be found.
  void ReadHeader(SourceRow* row);
  void ReadValues(SourceRow* row);

  ByteInput input_;
  const DatasetSchema schema_;
  const DatasetLimits limits_;
  const char separator_;
  bool has_header_ = false;
  bool ended_ = false;
  std::vector<std::string> names_;  // of the columns
  std::vector<int> places_;         // of the wanted columns among them; -1: it is not there
  std::string text_;                // the record's fields, one behind the other
  std::vector<int32_t> ends_;       // of each field in text_
  int64_t blank_lines_ = 0;
};

}  // namespace thaw
