// What trainings and predictions read alike: tokenizer and rows, from directories that lie on this
// machine.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/dataset/dataset_reader.h"
#include "thaw/v1/artifact.pb.h"
#include "worker/data/tokenized_dataset.h"
#include "worker/model/config.h"

namespace thaw {

// Called about once per thousand rows while something long is being read.
using Tick = std::function<void()>;

std::string OrDefault(const std::string& column, const char* otherwise);

// INVALID_ARGUMENT for a tokenizer whose ids the model has no rows for.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir,
                                                         const ModelConfig& config);

// 256 where nothing was asked for, and never more than the model has positions.
int32_t MaxLength(int32_t asked, const ModelConfig& config);

// The one file of rows in a dataset's directory, and how it is written.
struct DatasetPath {
  std::string path;
  FileFormat format = FileFormat::kJsonLines;
};
absl::StatusOr<DatasetPath> FindDataset(const std::string& directory, const v1::Artifact& dataset);

// Whole-file check of the columns; the summary's labels are in class order. FAILED_PRECONDITION,
// naming line and field, for the first thing that is wrong.
absl::StatusOr<DatasetSummary> ScanAll(const std::string& path, const DatasetSchema& schema,
                                       const Tick& tick);

std::vector<std::string> LabelNames(const DatasetSummary& summary);

// Gives every example of a file to `take`, in order, until that fails.
absl::Status ForEachExample(const std::string& path, const DatasetSchema& schema, const Tick& tick,
                            const std::function<absl::Status(const Example&)>& take);

// Reads the rows that options.keep wants.
absl::StatusOr<TokenizedDataset> ReadRows(const std::string& path, const DatasetSchema& schema,
                                          const Tokenizer& tokenizer,
                                          const std::vector<std::string>& labels,
                                          TokenizeOptions options, const Tick& tick);

}  // namespace thaw
