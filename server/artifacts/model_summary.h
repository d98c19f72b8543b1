#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "thaw/v1/artifact.pb.h"

namespace thaw {

// What config.json and the headers of the safetensors files in `directory` say of a model. Nothing
// is opened that the artifact does not list. INVALID_ARGUMENT names the file, what is wrong in it
// and the remedy. The tensors themselves are not read; their names, shapes and offsets are the
// trainer's to check.
absl::StatusOr<v1::ModelSummary> SummarizeModel(const std::string& directory,
                                                const v1::Artifact& artifact);

}  // namespace thaw
