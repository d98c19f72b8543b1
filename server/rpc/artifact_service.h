#pragma once

#include "server/rpc/server_parts.h"
#include "thaw/v1/artifact_service.grpc.pb.h"

namespace thaw {

// ArtifactService as artifact_service.proto says. All calls block; Write and Read hold a transfer
// slot each.
class ArtifactServiceImpl final : public v1::ArtifactService::Service {
 public:
  explicit ArtifactServiceImpl(const ServerParts& parts) : parts_(parts) {}

  grpc::Status CreateUpload(grpc::ServerContext* context, const v1::CreateUploadRequest* request,
                            v1::Upload* response) override;
  grpc::Status Write(grpc::ServerContext* context, grpc::ServerReader<v1::WriteRequest>* reader,
                     v1::WriteResponse* response) override;
  grpc::Status QueryWrite(grpc::ServerContext* context, const v1::QueryWriteRequest* request,
                          v1::Upload* response) override;
  grpc::Status FinishUpload(grpc::ServerContext* context, const v1::FinishUploadRequest* request,
                            v1::Artifact* response) override;
  grpc::Status GetArtifact(grpc::ServerContext* context, const v1::GetArtifactRequest* request,
                           v1::Artifact* response) override;
  grpc::Status ListArtifacts(grpc::ServerContext* context, const v1::ListArtifactsRequest* request,
                             v1::ListArtifactsResponse* response) override;
  grpc::Status Read(grpc::ServerContext* context, const v1::ReadRequest* request,
                    grpc::ServerWriter<v1::ReadResponse>* writer) override;
  grpc::Status DeleteArtifact(grpc::ServerContext* context,
                              const v1::DeleteArtifactRequest* request,
                              v1::DeleteArtifactResponse* response) override;
  grpc::Status GetDatasetReport(grpc::ServerContext* context,
                                const v1::GetDatasetReportRequest* request,
                                grpc::ServerWriter<v1::DatasetIssue>* writer) override;

 private:
  absl::Status Receive(grpc::ServerContext* context, const std::string& owner,
                       grpc::ServerReader<v1::WriteRequest>* reader, v1::WriteResponse* response);
  absl::Status Send(grpc::ServerContext* context, const v1::Artifact& artifact,
                    const v1::ReadRequest& request, grpc::ServerWriter<v1::ReadResponse>* writer);
  absl::StatusOr<v1::Artifact> Find(const Caller& caller, const std::string& id);

  const ServerParts& parts_;
};

}  // namespace thaw
