#include "common/dataset/row_source.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/dataset/delimited_rows.h"
#include "common/dataset/line_reader.h"
#include "common/dataset/text_rows.h"

namespace thaw {
namespace {

// UTF-16 files begin so; nothing in them can be read, and one message says more than one a line.
bool IsUtf16(std::string_view text) {
  return text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF");
}

// An object a line.
class JsonRows : public RowSource {
 public:
  JsonRows(std::unique_ptr<LineReader> lines, const DatasetSchema& schema,
           const DatasetLimits& limits)
      : lines_(std::move(lines)), schema_(schema), limits_(limits) {}

  absl::StatusOr<bool> Next(SourceRow* row) override {
    Line line;
    while (true) {
      if (ended_) return false;
      THAW_ASSIGN_OR_RETURN(const bool more, lines_->Next(&line));
      if (!more) return false;
      if (line.too_long || !IsBlank(line.text)) break;
      ++blank_lines_;
    }
    Read(line, row);
    return true;
  }

  int64_t lines() const override { return lines_->lines(); }
  int64_t blank_lines() const override { return blank_lines_; }
  int64_t bytes_read() const override { return lines_->bytes_read(); }
  bool byte_order_mark() const override { return lines_->byte_order_mark(); }

 private:
  void Read(const Line& line, SourceRow* row) {
    row->line = line.number;
    row->byte_offset = line.byte_offset;
    row->fault = {};
    row->names = {};
    if (line.number == 1 && IsUtf16(line.text)) {
      ended_ = true;
      return SetUtf16(row);
    }
    if (line.too_long) return SetTooLong(line.number, line.byte_offset, limits_, row);
    // The library takes a NUL for the end of its input and skips a byte order mark.
    if (const size_t nul = line.text.find('\0'); nul != std::string_view::npos) {
      return SetNulByte(line.number, line.byte_offset + static_cast<int64_t>(nul), row);
    }
    if (line.text.starts_with(kUtf8Mark)) {
      return SetFault(line.number, line.byte_offset, "",
                      "begins with a byte order mark, which only the file may",
                      "remove it: files were probably joined here", row);
    }
    row->columns = WantedColumns(schema_);
    LineFault fault;
    if (ReadColumns(line.text, limits_, &row->columns, &names_, &fault)) {
      row->names = names_;
      return;
    }
    const auto size = static_cast<int64_t>(line.text.size());
    SetFault(line.number, line.byte_offset + std::clamp<int64_t>(fault.position - 1, 0, size),
             fault.field, fault.reason, fault.remedy, row);
  }

  const std::unique_ptr<LineReader> lines_;
  const DatasetSchema schema_;
  const DatasetLimits limits_;
  std::vector<std::string> names_;  // of the present row's fields
  int64_t blank_lines_ = 0;
  bool ended_ = false;
};

absl::Status CheckFormat(const DatasetSchema& schema) {
  if (schema.format == FileFormat::kJsonLines) return absl::OkStatus();
  if (schema.form == ExampleForm::kLabels || schema.form == ExampleForm::kConversation) {
    return InvalidField("format", "only JSON Lines hold arrays of labels and conversations");
  }
  if (schema.format == FileFormat::kText && schema.text_column != kPlainTextColumn) {
    return InvalidField("text_column", absl::StrCat("\"", schema.text_column,
                                                    "\"; plain text has the one column \"",
                                                    kPlainTextColumn, "\": give that"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<RowSource>> RowSource::Open(const std::string& path,
                                                           const DatasetSchema& schema,
                                                           const DatasetLimits& limits) {
  THAW_RETURN_IF_ERROR(CheckFormat(schema));
  if (schema.format == FileFormat::kJsonLines) {
    THAW_ASSIGN_OR_RETURN(auto lines, LineReader::Open(path, limits.max_line_bytes));
    return std::make_unique<JsonRows>(std::move(lines), schema, limits);
  }
  THAW_ASSIGN_OR_RETURN(FileInput file, FileInput::Open(path));
  ByteInput input(std::move(file));
  THAW_RETURN_IF_ERROR(input.status());
  if (schema.format == FileFormat::kText) {
    return std::make_unique<TextRows>(std::move(input), schema, limits);
  }
  return std::make_unique<DelimitedRows>(std::move(input), schema, limits);
}

std::vector<ColumnValue> WantedColumns(const DatasetSchema& schema) {
  std::vector<ColumnValue> columns = {{.name = schema.text_column}};
  if (!schema.text_pair_column.empty()) columns.push_back({.name = schema.text_pair_column});
  if (schema.HasAnswerColumn()) columns.push_back({.name = schema.label_column});
  columns.back().reads_items =
      schema.form == ExampleForm::kConversation || schema.form == ExampleForm::kLabels;
  return columns;
}

void SetFault(int64_t line, int64_t byte_offset, std::string field, std::string reason,
              std::string remedy, SourceRow* row) {
  row->fault = {line, byte_offset, std::move(field), std::move(reason), std::move(remedy)};
}

void SetTooLong(int64_t line, int64_t byte_offset, const DatasetLimits& limits, SourceRow* row) {
  SetFault(line, byte_offset, "", absl::StrCat("is longer than ", limits.max_line_bytes, " bytes"),
           "cut it into several rows", row);
}

void SetUtf16(SourceRow* row) {
  SetFault(1, 0, "", "the file is UTF-16", "convert it to UTF-8", row);
}

void SetNulByte(int64_t line, int64_t byte_offset, SourceRow* row) {
  SetFault(line, byte_offset, "", "contains a NUL byte", "save the file as UTF-8 text", row);
}

}  // namespace thaw
