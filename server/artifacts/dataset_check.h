// Reads an uploaded dataset through and says everything that is wrong with it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "thaw/v1/artifact.pb.h"

namespace thaw {

// Parses the one file of `dataset` in `directory` with the columns of dataset->dataset() and those
// that ResolveColumns finds beside them, fills the summary, and sets the state to READY or to
// REJECTED with a reason. Every bad line goes to `report_path`: a DatasetIssue in JSON a line,
// written whole before the state is set; without bad lines there is no such file. A report that
// would grow beyond `max_report_bytes` ends with one issue that counts the rest. Rows that all lack
// the label (number, completion, target, answer) make a dataset for prediction only. An error means
// that the files could not be read or the report not be written, never that the data is bad.
absl::Status CheckDataset(const std::string& directory, const std::string& report_path,
                          v1::Artifact* dataset, int64_t max_report_bytes = 64 << 20);

// Calls `each` with every issue of a report, in file order, until it gives false. A report that
// does not exist is empty.
absl::Status ReadDatasetReport(const std::string& report_path,
                               const std::function<bool(const v1::DatasetIssue&)>& each);

}  // namespace thaw
