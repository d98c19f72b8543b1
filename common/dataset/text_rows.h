// Rows of plain text: what stands between empty lines.
#pragma once

#include <string>

#include "common/dataset/file_input.h"
#include "common/dataset/row_source.h"

namespace thaw {

inline constexpr char kPlainTextColumn[] = "text";

// A row is a run of lines that are not blank, joined by line feeds whatever ends them in the file.
class TextRows : public RowSource {
 public:
  TextRows(ByteInput input, const DatasetSchema& schema, const DatasetLimits& limits)
      : input_(std::move(input)), schema_(schema), limits_(limits) {}

  absl::StatusOr<bool> Next(SourceRow* row) override;

  int64_t lines() const override { return input_.lines(); }
  int64_t blank_lines() const override { return blank_lines_; }
  int64_t bytes_read() const override { return input_.offset(); }
  bool byte_order_mark() const override { return input_.byte_order_mark(); }

 private:
  // The next line into line_, as far as there is room for it; false at the end of the file.
  bool ReadLine();

  ByteInput input_;
  const DatasetSchema schema_;
  const DatasetLimits limits_;
  std::string line_;         // without its end
  int64_t nul_offset_ = -1;  // of the first NUL in it, or -1
  bool too_long_ = false;    // there was no room for all of it
  int64_t blank_lines_ = 0;
  bool ended_ = false;
};

}  // namespace thaw
