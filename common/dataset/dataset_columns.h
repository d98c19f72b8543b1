// The columns that an upload states: defaults, validation, and the schema that they make.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/status.h"
#include "common/dataset/dataset_schema.h"
#include "thaw/v1/artifact_service.pb.h"

namespace thaw {

// How `file` is written: as given or, where nothing is, by the ending of its name; unspecified
// where that is none of .jsonl, .csv, .tsv and .txt.
v1::DatasetSummary::Format FormatOf(v1::DatasetSummary::Format given, absl::string_view file);

// Unspecified, as in what was uploaded before there were others: JSON Lines.
FileFormat FileFormatOf(v1::DatasetSummary::Format format);

// `columns` with task, format and every column that rows of the task have. What is not given is
// found among the fields of the first row of the file at `path`: the usual name or, where exactly
// one of them is there, another customary one (docs/dataset_format.md lists them); otherwise it is
// the usual name. COMPLETION without any column: conversations if the file has "messages" and no
// "prompt". Errors are those of reading the file.
absl::StatusOr<v1::DatasetColumns> ResolveColumns(const std::string& path,
                                                  const v1::DatasetColumns& columns);

// Everything that is wrong with the columns of an upload in this format; fields are written from
// "columns" on.
std::vector<FieldViolation> ViolationsIn(const v1::DatasetColumns& columns,
                                         v1::DatasetSummary::Format format);

// Task, format and columns from one message to the other.
void CopyColumns(const v1::DatasetColumns& columns, v1::DatasetSummary* summary);
v1::DatasetColumns ColumnsIn(const v1::DatasetSummary& summary);

// Whether `summary` is of an upload with these columns, which are resolved.
bool SameColumns(const v1::DatasetColumns& columns, const v1::DatasetSummary& summary);

// How to read a dataset whose columns are filled in.
DatasetSchema SchemaOf(const v1::DatasetSummary& summary);

}  // namespace thaw
