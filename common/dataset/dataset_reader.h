// Reads a JSON Lines dataset strictly: RFC 8259, UTF-8, one object a line, no repeated keys.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/dataset/dataset_schema.h"

namespace thaw {

class ExampleParser;
class LineReader;

// Reads the whole file and calls `on_issue` for everything wrong with it, in file order; `on_issue`
// may be empty. Memory does not grow with the file. Returns an error only when the file cannot be
// read at all (NOT_FOUND, INVALID_ARGUMENT for a schema that names no text column or what is not a
// regular file, UNAVAILABLE for I/O) or when `on_issue` returns one, which ends the scan: a bad
// dataset is a summary with issues. Calls `tick`, if given, every thousand lines.
absl::Status ScanDataset(const std::string& path, const DatasetSchema& schema,
                         const DatasetLimits& limits,
                         const std::function<absl::Status(const DatasetIssue&)>& on_issue,
                         DatasetSummary* summary, const std::function<void()>& tick = nullptr);

// Whether the first line that is not blank has "messages" and no "prompt": what a file of
// completions holds when nobody says. A line that is no JSON has neither.
absl::StatusOr<bool> HoldsConversations(const std::string& path, const DatasetLimits& limits = {});

// Yields the examples of a file in order. One thread at a time.
class DatasetReader {
 public:
  static absl::StatusOr<std::unique_ptr<DatasetReader>> Open(const std::string& path,
                                                             const DatasetSchema& schema,
                                                             const DatasetLimits& limits = {});
  ~DatasetReader();

  // Fills `example` and returns true, or returns false at the end of the file. A bad line is
  // FAILED_PRECONDITION with line, byte, field and reason: datasets are scanned before they are
  // trained on.
  absl::StatusOr<bool> Next(Example* example);

 private:
  DatasetReader(std::unique_ptr<LineReader> lines, std::unique_ptr<ExampleParser> parser);

  std::unique_ptr<LineReader> lines_;
  std::unique_ptr<ExampleParser> parser_;
};

}  // namespace thaw
