// Rows of artifacts and uploads. `owner` is who asks: a foreign artifact is NOT_FOUND; empty: an
// admin.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/jobs/records.h"
#include "server/jobs/store.h"

namespace thaw {

// `artifact` is complete, its owner included; create_time is filled in if unset. ALREADY_EXISTS if
// the id is taken.
absl::StatusOr<v1::Artifact> InsertArtifact(Transaction& transaction, const v1::Artifact& artifact);
// After validation: replaces state, state_reason, dataset and model.
absl::Status SetArtifactState(Transaction& transaction, const v1::Artifact& artifact);
absl::StatusOr<v1::Artifact> GetArtifact(Reader& reader, const std::string& owner,
                                         const std::string& id);
// Newest first, without files and without checkpoints. `kind` unspecified: all.
absl::StatusOr<Page<v1::Artifact>> ListArtifacts(Reader& reader, const std::string& owner,
                                                 v1::Artifact::Kind kind, int page_size,
                                                 const std::string& page_token);
// FAILED_PRECONDITION while an unfinished job refers to it, naming the job. Observers of removals
// hear of it.
absl::Status DeleteArtifact(Transaction& transaction, const std::string& owner,
                            const std::string& id);
// Ids of all artifacts that have a row: directories of others can be swept.
absl::StatusOr<std::vector<std::string>> AllArtifactIds(Reader& reader);
// Datasets whose validation a restart has interrupted.
absl::StatusOr<std::vector<v1::Artifact>> ValidatingArtifacts(Reader& reader);

// request_id as in CreateJob: `upload` itself if it is new, the earlier upload if the request is
// the same, ALREADY_EXISTS otherwise.
absl::StatusOr<UploadRecord> CreateUpload(Transaction& transaction, const UploadRecord& upload);
absl::StatusOr<UploadRecord> GetUpload(Reader& reader, const std::string& owner,
                                       const std::string& id);
absl::Status ExtendUpload(Transaction& transaction, const std::string& id, int64_t expire_micros);
// Remembers what it became, so that repeating FinishUpload finds it.
absl::Status SetUploadArtifact(Transaction& transaction, const std::string& id,
                               const std::string& artifact);
absl::Status DeleteUpload(Transaction& transaction, const std::string& id);
// All uploads, finished ones included.
absl::StatusOr<std::vector<UploadRecord>> AllUploads(Reader& reader);

}  // namespace thaw
