#include "common/dataset/text_rows.h"

#include <utility>

#include "common/base/clean_text.h"

namespace thaw {

bool TextRows::ReadLine() {
  line_.clear();
  nul_offset_ = -1;
  too_long_ = false;
  if (input_.Peek() == ByteInput::kEnd) return false;
  while (true) {
    const int64_t offset = input_.offset();
    const int byte = input_.Take();
    if (byte == '\r') input_.TakeLineFeed();
    if (byte == '\r' || byte == '\n' || byte == ByteInput::kEnd) return true;
    if (byte == 0 && nul_offset_ < 0) nul_offset_ = offset;
    if (static_cast<int64_t>(line_.size()) < limits_.max_line_bytes) {
      line_ += static_cast<char>(byte);
    } else {
      too_long_ = true;
    }
  }
}

absl::StatusOr<bool> TextRows::Next(SourceRow* row) {
  if (ended_) return false;
  if (input_.IsUtf16()) {
    ended_ = true;
    SetUtf16(row);
    return true;
  }
  row->fault = {};
  std::string text;
  bool begun = false;
  while (true) {
    const int64_t number = input_.line(), offset = input_.offset();
    if (!ReadLine()) break;
    if (!too_long_ && IsBlank(line_)) {
      ++blank_lines_;
      if (begun) break;
      continue;
    }
    if (!begun) {
      row->line = number;
      row->byte_offset = offset;
    }
    const bool fits = !too_long_ && static_cast<int64_t>(text.size() + line_.size()) + begun <=
                                        limits_.max_line_bytes;
    if (!row->fault.reason.empty()) continue;  // to the row's end
    if (nul_offset_ >= 0) {
      SetNulByte(number, nul_offset_, row);
    } else if (!fits) {
      SetTooLong(row->line, row->byte_offset, limits_, row);
      row->fault.remedy = "part it by empty lines";
    } else if (!IsUtf8(line_)) {
      SetFault(number, offset, "", "is not UTF-8", "save the file as UTF-8 text", row);
    } else {
      if (begun) text += '\n';
      text += line_;
    }
    begun = true;
  }
  if (!input_.status().ok()) return input_.status();
  if (!begun) return false;
  row->columns = WantedColumns(schema_);
  row->columns.front().value = {ValueKind::kString, std::move(text)};
  static const std::string kNames[] = {kPlainTextColumn};
  row->names = kNames;
  return true;
}

}  // namespace thaw
