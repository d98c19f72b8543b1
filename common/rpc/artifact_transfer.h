// Moves the files of artifacts to and from a server: goes on where it broke off, checks every byte.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/client_context.h"
#include "thaw/v1/artifact_service.grpc.pb.h"

namespace thaw {

struct TransferOptions {
  // Puts credentials into each call's context; may be empty.
  std::function<void(grpc::ClientContext*)> prepare;
  // Bytes done and in all, from the thread that transfers; may be empty.
  std::function<void(int64_t done, int64_t total)> progress;
  // Asked between chunks; true ends the transfer with CANCELLED. May be empty.
  std::function<bool()> cancelled;
  // Waits so many seconds between two tries; empty: sleeps. See WaitToCallAgain.
  std::function<void(double seconds)> wait;
  // How long a transfer that does not advance is tried again.
  double retry_seconds = 60;
};

// Path, size and SHA-256 of a local file, under the name that it gets in the artifact.
absl::StatusOr<v1::File> DescribeFile(const std::string& local_path, const std::string& path);

// Announces `request` (with a fresh request id if it has none), sends local_paths[i] as
// request.files(i) and finishes with `finish`, whose upload id is filled in. Blocks. Thread-safe.
absl::StatusOr<v1::Artifact> UploadArtifact(v1::ArtifactService::StubInterface* stub,
                                            v1::CreateUploadRequest request,
                                            const std::vector<std::string>& local_paths,
                                            v1::FinishUploadRequest finish,
                                            const TransferOptions& options);

// Makes `directory` hold every file of `artifact`. A file that is there with the right hash is
// kept; others come as "<name>.part", from where an earlier call left off, and are renamed once
// their hash is right. DATA_LOSS when it stays wrong. Blocks; one thread at a time for each
// directory.
absl::Status DownloadArtifact(v1::ArtifactService::StubInterface* stub,
                              const v1::Artifact& artifact, const std::string& directory,
                              const TransferOptions& options);

}  // namespace thaw
