// The rows of a file as the values of the wanted columns, whatever the file's format.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/dataset/dataset_schema.h"
#include "common/dataset/line_columns.h"

namespace thaw {

struct SourceRow {
  int64_t line = 0;         // 1-based, at which it begins
  int64_t byte_offset = 0;  // of its first byte in the file
  // The text, the second text if there is one, the answer if there is one.
  std::vector<ColumnValue> columns;
  std::span<const std::string> names;  // of all its fields, as far as they are known
  // What keeps it from being read at all; without a reason it was read. `line` and `byte_offset`
  // are those of the fault.
  DatasetIssue fault;
};

// One thread at a time.
class RowSource {
 public:
  // INVALID_ARGUMENT if `path` is no regular file, or for a schema that the format cannot hold.
  static absl::StatusOr<std::unique_ptr<RowSource>> Open(const std::string& path,
                                                         const DatasetSchema& schema,
                                                         const DatasetLimits& limits);
  virtual ~RowSource() = default;

  // Fills `row` and returns true; false at the end of the file, and behind a fault that makes the
  // rest unreadable (UTF-16, a bad header). Blank lines are skipped. What `row` refers
  // to is valid until the next call.
  virtual absl::StatusOr<bool> Next(SourceRow* row) = 0;

  // So far.
  virtual int64_t lines() const = 0;
  virtual int64_t blank_lines() const = 0;
  virtual int64_t bytes_read() const = 0;
  virtual bool byte_order_mark() const = 0;
};

// Inside common/dataset: what the sources share.
std::vector<ColumnValue> WantedColumns(const DatasetSchema& schema);
// Makes `row` one that cannot be read.
void SetFault(int64_t line, int64_t byte_offset, std::string field, std::string reason,
              std::string remedy, SourceRow* row);
void SetTooLong(int64_t line, int64_t byte_offset, const DatasetLimits& limits, SourceRow* row);
void SetUtf16(SourceRow* row);
void SetNulByte(int64_t line, int64_t byte_offset, SourceRow* row);

}  // namespace thaw
