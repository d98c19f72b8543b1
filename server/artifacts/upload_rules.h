// What may be uploaded at all, seen from the announcement alone. Pure functions.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "thaw/v1/artifact_service.pb.h"

namespace thaw {

// INVALID_ARGUMENT with every violation: names, sizes, hashes, files that a kind needs or refuses
// (a model needs config.json and safetensors; pickled weights are never taken).
absl::Status ValidateUpload(const v1::CreateUploadRequest& request);

// "model", "dataset", "result" or "checkpoint": the prefix of ids; directories are its plural.
absl::string_view KindName(v1::Artifact::Kind kind);

}  // namespace thaw
