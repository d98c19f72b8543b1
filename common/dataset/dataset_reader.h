// Reads a dataset strictly: JSON Lines (RFC 8259, no repeated keys), CSV and TSV (RFC 4180), plain
// text; all UTF-8.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/dataset/dataset_schema.h"

namespace thaw {

class ExampleParser;
class RowSource;

// Reads the whole file and calls `on_issue` for everything wrong with it, in file order; `on_issue`
// may be empty. Memory does not grow with the file. Returns an error only when the file cannot be
// read at all (NOT_FOUND, INVALID_ARGUMENT for a schema that its format cannot hold or what is not
// a regular file, UNAVAILABLE for I/O) or when `on_issue` returns one, which ends the scan: a bad
// dataset is a summary with issues. Calls `tick`, if given, every thousand rows.
absl::Status ScanDataset(const std::string& path, const DatasetSchema& schema,
                         const DatasetLimits& limits,
                         const std::function<absl::Status(const DatasetIssue&)>& on_issue,
                         DatasetSummary* summary, const std::function<void()>& tick = nullptr);

// Names of the first row's fields, or of the header's columns; none if that cannot be read.
absl::StatusOr<std::vector<std::string>> FirstRowFields(const std::string& path, FileFormat format,
                                                        const DatasetLimits& limits = {});

// Yields the examples of a file in order. One thread at a time.
class DatasetReader {
 public:
  static absl::StatusOr<std::unique_ptr<DatasetReader>> Open(const std::string& path,
                                                             const DatasetSchema& schema,
                                                             const DatasetLimits& limits = {});
  ~DatasetReader();

  // Fills `example` and returns true, or returns false at the end of the file. A bad row is
  // FAILED_PRECONDITION with line, byte, field and reason: datasets are scanned before they are
  // trained on.
  absl::StatusOr<bool> Next(Example* example);

 private:
  DatasetReader(std::unique_ptr<RowSource> rows, std::unique_ptr<ExampleParser> parser);

  std::unique_ptr<RowSource> rows_;
  std::unique_ptr<ExampleParser> parser_;
};

}  // namespace thaw
