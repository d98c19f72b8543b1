// ArtifactService, typed: uploads and downloads that go on where they broke off and check every
// byte.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "thaw/v1/artifact_service.pb.h"

namespace thaw {

class Caller;

// A file to upload: where it is, and its path in the artifact.
struct LocalFile {
  std::string local_path;
  std::string path;
};

struct ImportRequest {
  v1::Artifact::Kind kind = v1::Artifact::MODEL;
  std::vector<LocalFile> files;
  std::string display_name;
  v1::DatasetColumns columns;  // kind DATASET
  std::string base_model;      // of an adapter or a delta: id of the model that it builds on
};

// The files of a Hugging Face directory that Thaw reads: JSON, text, safetensors, licence. Others,
// pickled weights among them, are named in `skipped`, which may be null.
absl::StatusOr<std::vector<LocalFile>> FilesOfModel(const std::string& directory,
                                                    std::vector<std::string>* skipped);

// Bytes done and in all; may be empty.
using TransferProgress = std::function<void(int64_t done, int64_t total)>;

// Errors as in JobClient. Thread-safe.
class ArtifactClient {
 public:
  explicit ArtifactClient(std::shared_ptr<Caller> caller);
  ~ArtifactClient();

  // Uploads and waits until the server has read it: READY or REJECTED. An artifact of the same
  // kind, name, columns and content that is READY is given back instead of a second one.
  absl::StatusOr<v1::Artifact> Import(const ImportRequest& request,
                                      const TransferProgress& progress);

  absl::StatusOr<v1::Artifact> GetArtifact(const std::string& id);
  // Newest first, without files. KIND_UNSPECIFIED: all kinds.
  absl::StatusOr<std::vector<v1::Artifact>> ListArtifacts(v1::Artifact::Kind kind);
  absl::Status DeleteArtifact(const std::string& id);

  // By id or by display name, of which the newest counts. NOT_FOUND says what there is.
  absl::StatusOr<v1::Artifact> Find(v1::Artifact::Kind kind, const std::string& id_or_name);

  // Every bad line, in order.
  absl::Status GetDatasetReport(const std::string& id,
                                const std::function<void(const v1::DatasetIssue&)>& on_issue);

  // Makes `directory` hold the artifact's files, each checked by its SHA-256. Files that are there
  // already are checked and kept; what an earlier call left unfinished is gone on with.
  absl::Status Fetch(const v1::Artifact& artifact, const std::string& directory,
                     const TransferProgress& progress);

  // The same with all weights: what builds on a base model is put together with it
  // (docs/delta_format.md) and checked again. FAILED_PRECONDITION for an adapter, whose weights
  // only a trainer can compute.
  absl::Status FetchFull(const v1::Artifact& artifact, const std::string& directory,
                         const TransferProgress& progress);

  // The bytes of one file of at most `limit` bytes, checked.
  absl::StatusOr<std::string> ReadFile(const v1::Artifact& artifact, const std::string& path,
                                       int64_t limit);

 private:
  struct Stubs;
  absl::StatusOr<v1::Artifact> WaitUntilRead(v1::Artifact artifact);

  const std::shared_ptr<Caller> caller_;
  const std::unique_ptr<Stubs> stubs_;
};

}  // namespace thaw
