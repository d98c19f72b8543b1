// Models that hold only a part of their weights and build on another one.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/jobs/records.h"
#include "server/jobs/store.h"
#include "thaw/v1/artifact.pb.h"
#include "thaw/v1/artifact_service.pb.h"

namespace thaw {

// What the files of a model or result make it; FORM_UNSPECIFIED for what is no model.
v1::Artifact::Form FormOf(const v1::Artifact& artifact);

// Before any byte is taken: the model that an uploaded adapter or delta names must be visible to
// `owner`, READY, and have all weights. INVALID_ARGUMENT otherwise.
absl::Status CheckUploadBase(Reader& reader, const std::string& owner,
                             const v1::CreateUploadRequest& request);

// The model with all weights that the upload builds on: the one that it names, or that of the
// training that wrote it.
absl::StatusOr<v1::Artifact> BaseOfUpload(Reader& reader, const UploadRecord& upload);

// Fills form, base_model and model of `artifact`, an adapter or delta whose files are in
// `directory`. INVALID_ARGUMENT if it was made for another base.
absl::Status DescribeOnBase(const std::string& directory, const v1::Artifact& base,
                            v1::Artifact* artifact);

}  // namespace thaw
