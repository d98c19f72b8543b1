// The words of --task, --format, --precision and --metric, and what each task makes of a training.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "thaw/v1/artifact.pb.h"
#include "thaw/v1/job_spec.pb.h"

namespace thaw {

// "classification", "multi_label", "regression", "lm", "completion" or "seq2seq".
// INVALID_ARGUMENT names them.
absl::StatusOr<v1::DatasetSummary::Task> ParseTask(absl::string_view word);

// For help texts: all of them, with commas between.
std::string TaskWords();

// The word of a dataset's task; "classification" for one that says none.
std::string TaskWord(v1::DatasetSummary::Task task);

// The same of how a dataset's file is written, by the usual ending of its name: "jsonl", "csv",
// "tsv" or "txt".
absl::StatusOr<v1::DatasetSummary::Format> ParseFormat(absl::string_view word);
std::string FormatWords();
std::string FormatWord(v1::DatasetSummary::Format format);

// Of --pooling: "mean", "cls", "last" or "max"; unspecified for an empty word.
absl::StatusOr<v1::Embed::Pooling> ParsePooling(absl::string_view word);

// Of --precision: "fp32" or "bf16".
absl::StatusOr<v1::Precision> ParsePrecision(absl::string_view word);

// Of --metric: all metrics of evaluations, with commas between.
std::string MetricWords();

// Sets the task of `training` with the columns that `dataset` was uploaded with.
void SetTask(v1::DatasetSummary::Task task, const v1::DatasetSummary& dataset,
             v1::Training* training);

}  // namespace thaw
