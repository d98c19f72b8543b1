#include "worker/agent/server_link.h"

#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/mutex.h"
#include "common/base/status.h"
#include "common/rpc/artifact_transfer.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "thaw/v1/artifact_service.grpc.pb.h"
#include "thaw/v1/worker_service.grpc.pb.h"

namespace thaw {
namespace {

// An idle Sync is held for 20 s; a link that is dead without saying so must not be waited on for
// much longer.
constexpr auto kSyncDeadline = std::chrono::seconds(40);

class GrpcServerLink final : public ServerLink {
 public:
  GrpcServerLink(std::string access_token, const std::shared_ptr<grpc::Channel>& calls,
                 const std::shared_ptr<grpc::Channel>& transfers)
      : access_token_(std::move(access_token)),
        workers_(v1::WorkerService::NewStub(calls)),
        artifacts_(v1::ArtifactService::NewStub(transfers)) {}

  absl::StatusOr<v1::SyncResponse> Sync(const v1::SyncRequest& request) override {
    auto context = std::make_shared<grpc::ClientContext>();
    AddAccessToken(access_token_, context.get());
    context->set_deadline(std::chrono::system_clock::now() + kSyncDeadline);
    // A server that was away is found as soon as it is back, and gRPC makes connections, those of
    // the transfers too, only while somebody waits in it. Who leaves need not wait.
    context->set_wait_for_ready(!request.draining());
    {
      MutexLock lock(mutex_);
      if (std::exchange(cancel_next_, false)) return absl::CancelledError("cancelled");
      syncing_ = context;
    }
    v1::SyncResponse response;
    const grpc::Status status = workers_->Sync(context.get(), request, &response);
    {
      MutexLock lock(mutex_);
      syncing_.reset();
    }
    THAW_RETURN_IF_ERROR(FromGrpcStatus(status));
    return response;
  }

  void CancelSync() override {
    MutexLock lock(mutex_);
    if (syncing_) {
      syncing_->TryCancel();
    } else {
      cancel_next_ = true;
    }
  }

  absl::Status Download(const std::string& attempt_id, const v1::Artifact& artifact,
                        const std::string& directory,
                        const std::function<bool()>& cancelled) override {
    return DownloadArtifact(artifacts_.get(), artifact, directory,
                            OptionsFor(attempt_id, cancelled));
  }

  absl::Status Publish(const std::string& attempt_id, const std::string& directory,
                       const v1::FinishUploadRequest& finish,
                       const std::function<bool()>& cancelled) override {
    TransferOptions options = OptionsFor(attempt_id, cancelled);
    // What is done is worth waiting for, as long as the attempt is ours.
    options.retry_seconds = 86400;
    v1::CreateUploadRequest request;
    request.set_kind(finish.has_result() ? v1::Artifact::RESULT : v1::Artifact::CHECKPOINT);
    request.set_attempt_id(attempt_id);
    THAW_ASSIGN_OR_RETURN(const std::vector<FileEntry> entries, ListFiles(directory));
    std::vector<std::string> paths;
    for (const FileEntry& entry : entries) {
      paths.push_back(absl::StrCat(directory, "/", entry.path));
      THAW_ASSIGN_OR_RETURN(*request.add_files(), DescribeFile(paths.back(), entry.path));
    }
    return UploadArtifact(artifacts_.get(), std::move(request), paths, finish, options).status();
  }

 private:
  TransferOptions OptionsFor(const std::string& attempt_id,
                             const std::function<bool()>& cancelled) const {
    TransferOptions options;
    options.prepare = [token = access_token_, attempt_id](grpc::ClientContext* context) {
      AddAccessToken(token, context);
      context->AddMetadata("thaw-attempt", attempt_id);
    };
    options.cancelled = cancelled;
    return options;
  }

  const std::string access_token_;
  const std::unique_ptr<v1::WorkerService::Stub> workers_;
  const std::unique_ptr<v1::ArtifactService::Stub> artifacts_;
  Mutex mutex_;
  std::shared_ptr<grpc::ClientContext> syncing_ THAW_GUARDED_BY(mutex_);
  bool cancel_next_ THAW_GUARDED_BY(mutex_) = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ServerLink>> ConnectToServer(const ServerLinkOptions& options) {
  THAW_ASSIGN_OR_RETURN(const std::string token, ReadAccessToken(options.token_file));
  const TlsFiles tls = {options.ca_file, options.certificate_file, options.key_file};
  // Two channels, so that a Sync never waits behind gigabytes.
  THAW_ASSIGN_OR_RETURN(const auto calls, CreateChannel(options.address, tls));
  THAW_ASSIGN_OR_RETURN(const auto transfers, CreateChannel(options.address, tls));
  return std::make_unique<GrpcServerLink>(token, calls, transfers);
}

}  // namespace thaw
