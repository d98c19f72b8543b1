// The columns that an upload states: defaults, validation, and the schema that they make.
#pragma once

#include <vector>

#include "common/base/status.h"
#include "common/dataset/dataset_schema.h"
#include "thaw/v1/artifact_service.pb.h"

namespace thaw {

// `columns` with the task and its usual names filled in. COMPLETION without any column stays
// without: the file's first row decides (HoldsConversations).
v1::DatasetColumns WithDefaults(const v1::DatasetColumns& columns);

// Everything that is wrong with the columns of an upload; fields are written from "columns" on.
std::vector<FieldViolation> ViolationsIn(const v1::DatasetColumns& columns);

// Copies task and columns.
void CopyColumns(const v1::DatasetColumns& columns, v1::DatasetSummary* summary);

// Whether `summary` came of an upload with these columns.
bool SameColumns(const v1::DatasetColumns& columns, const v1::DatasetSummary& summary);

// How to read a dataset whose columns are filled in.
DatasetSchema SchemaOf(const v1::DatasetSummary& summary);

}  // namespace thaw
