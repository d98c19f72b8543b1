// Directories to and from ArtifactService: resumable, every hash checked at both ends. Used by
// clients and workers.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/rpc/channel.h"
#include "thaw/v1/artifact_service.grpc.pb.h"

namespace thaw {

struct TransferOptions {
  CallIdentity identity;
  // Called with bytes done and bytes in all, from the calling thread, after every chunk. May be
  // empty.
  std::function<void(int64_t, int64_t)> on_progress;
  // Asked between chunks; true ends the transfer with CANCELLED. May be empty.
  std::function<bool()> cancelled;
  // A broken stream is taken up again at the committed offset; so many breaks in a row without
  // progress end it.
  int tries = 5;
};

// The regular files below `directory` with sizes and hashes, sorted by path. INVALID_ARGUMENT for
// links, devices and names that an artifact may not have.
absl::Status DescribeFiles(const std::string& directory,
                           google::protobuf::RepeatedPtrField<v1::File>* files);

// Sends `directory` as what `request` says (its `files` are filled in here) and gives back the
// upload, whole on the server but not finished. The caller finishes it.
absl::StatusOr<v1::Upload> UploadDirectory(v1::ArtifactService::StubInterface& stub,
                                           const std::string& directory,
                                           v1::CreateUploadRequest request,
                                           const TransferOptions& options);

// FinishUpload with retries: it gives the same artifact each time.
absl::StatusOr<v1::Artifact> FinishUpload(v1::ArtifactService::StubInterface& stub,
                                          const v1::FinishUploadRequest& request,
                                          const TransferOptions& options);

// Brings every file of `artifact` to `directory` (made if needed). A file is written as
// <name>.part, taken up again where an earlier call broke off, checked, and renamed; one that is
// there already with the right hash is kept. DATA_LOSS if what arrives does not have the hash.
absl::Status DownloadArtifact(v1::ArtifactService::StubInterface& stub,
                              const v1::Artifact& artifact, const std::string& directory,
                              const TransferOptions& options);

}  // namespace thaw
