#include "server/rpc/artifact_service.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "server/artifacts/based_model.h"
#include "server/artifacts/dataset_check.h"
#include "server/artifacts/upload_rules.h"
#include "server/jobs/artifact_table.h"
#include "server/rpc/answer.h"
#include "server/rpc/job_requests.h"

namespace thaw {
namespace {

constexpr int64_t kReadChunkBytes = 256 << 10;
constexpr size_t kMaxWriteBytes = 1 << 20;

}  // namespace

absl::StatusOr<v1::Artifact> ArtifactServiceImpl::Find(const Caller& caller,
                                                       const std::string& id) {
  return parts_.store.Read(
      [&](Reader& reader) { return thaw::GetArtifact(reader, caller.scope, id); });
}

grpc::Status ArtifactServiceImpl::CreateUpload(grpc::ServerContext* context,
                                               const v1::CreateUploadRequest* request,
                                               v1::Upload* response) {
  return Answer(parts_.metrics, "CreateUpload", [&]() -> absl::Status {
    THAW_ASSIGN_OR_RETURN(const Caller caller, parts_.authorizer.Authorize(
                                                   *context, "CreateUpload",
                                                   CallObject::NewUpload(request->attempt_id())));
    THAW_RETURN_IF_ERROR(ValidateUpload(*request));
    THAW_RETURN_IF_ERROR(parts_.store.Read(
        [&](Reader& reader) { return CheckUploadBase(reader, caller.scope, *request); }));
    return Fill(parts_.artifacts.staging().Create(caller.owner, *request), response);
  });
}

grpc::Status ArtifactServiceImpl::Write(grpc::ServerContext* context,
                                        grpc::ServerReader<v1::WriteRequest>* reader,
                                        v1::WriteResponse* response) {
  return Answer(parts_.metrics, "Write", [&]() -> absl::Status {
    // Once before anything is read, and in Receive again for the upload that the first message
    // names.
    THAW_ASSIGN_OR_RETURN(const Caller caller, parts_.authorizer.Authorize(*context, "Write"));
    return Receive(context, caller.owner, reader, response);
  });
}

absl::Status ArtifactServiceImpl::Receive(grpc::ServerContext* context, const std::string& owner,
                                          grpc::ServerReader<v1::WriteRequest>* reader,
                                          v1::WriteResponse* response) {
  THAW_ASSIGN_OR_RETURN(Transfers::Slot slot, parts_.transfers.Begin(context, owner));
  v1::WriteRequest message;
  if (!reader->Read(&message)) return InvalidField("upload_id", "is missing: no message came");
  THAW_RETURN_IF_ERROR(
      parts_.authorizer.Authorize(*context, "Write", CallObject::Upload(message.upload_id()))
          .status());
  THAW_ASSIGN_OR_RETURN(
      const auto writer,
      parts_.artifacts.staging().StartWrite(message.upload_id(), message.path(), message.offset()));
  do {
    if (message.data().size() > kMaxWriteBytes) {
      return InvalidField("data", absl::StrCat("has ", message.data().size(),
                                               " bytes: send at most 1 MiB in a message"));
    }
    THAW_RETURN_IF_ERROR(writer->Append(message.data()));
    parts_.metrics.AddBytesWritten(static_cast<int64_t>(message.data().size()));
    if (!message.data().empty()) slot.Progressed();
  } while (reader->Read(&message));
  THAW_ASSIGN_OR_RETURN(const int64_t committed, writer->Commit());
  response->set_committed_size(committed);
  return absl::OkStatus();
}

grpc::Status ArtifactServiceImpl::QueryWrite(grpc::ServerContext* context,
                                             const v1::QueryWriteRequest* request,
                                             v1::Upload* response) {
  return Answer(parts_.metrics, "QueryWrite", [&]() -> absl::Status {
    THAW_RETURN_IF_ERROR(
        parts_.authorizer
            .Authorize(*context, "QueryWrite", CallObject::Upload(request->upload_id()))
            .status());
    return Fill(parts_.artifacts.staging().Query(request->upload_id()), response);
  });
}

grpc::Status ArtifactServiceImpl::FinishUpload(grpc::ServerContext* context,
                                               const v1::FinishUploadRequest* request,
                                               v1::Artifact* response) {
  return Answer(parts_.metrics, "FinishUpload", [&]() -> absl::Status {
    THAW_RETURN_IF_ERROR(
        parts_.authorizer
            .Authorize(*context, "FinishUpload", CallObject::Upload(request->upload_id()))
            .status());
    return Fill(parts_.artifacts.FinishUpload(*request), response);
  });
}

grpc::Status ArtifactServiceImpl::GetArtifact(grpc::ServerContext* context,
                                              const v1::GetArtifactRequest* request,
                                              v1::Artifact* response) {
  return Answer(parts_.metrics, "GetArtifact", [&]() -> absl::Status {
    THAW_ASSIGN_OR_RETURN(
        const Caller caller,
        parts_.authorizer.Authorize(*context, "GetArtifact", CallObject::Artifact(request->id())));
    return Fill(Find(caller, request->id()), response);
  });
}

grpc::Status ArtifactServiceImpl::ListArtifacts(grpc::ServerContext* context,
                                                const v1::ListArtifactsRequest* request,
                                                v1::ListArtifactsResponse* response) {
  return Answer(parts_.metrics, "ListArtifacts", [&]() -> absl::Status {
    THAW_ASSIGN_OR_RETURN(const Caller caller,
                          parts_.authorizer.Authorize(*context, "ListArtifacts"));
    THAW_ASSIGN_OR_RETURN(const int size, PageSize("page_size", request->page_size(), 1000, 50));
    THAW_ASSIGN_OR_RETURN(auto page, parts_.store.Read([&](Reader& reader) {
      return thaw::ListArtifacts(reader, caller.scope, request->kind(), size,
                                 request->page_token());
    }));
    for (v1::Artifact& artifact : page.items) *response->add_artifacts() = std::move(artifact);
    response->set_next_page_token(page.next_page_token);
    return absl::OkStatus();
  });
}

grpc::Status ArtifactServiceImpl::Read(grpc::ServerContext* context, const v1::ReadRequest* request,
                                       grpc::ServerWriter<v1::ReadResponse>* writer) {
  return Answer(parts_.metrics, "Read", [&]() -> absl::Status {
    THAW_ASSIGN_OR_RETURN(
        const Caller caller,
        parts_.authorizer.Authorize(*context, "Read", CallObject::Artifact(request->id())));
    THAW_ASSIGN_OR_RETURN(const v1::Artifact artifact, Find(caller, request->id()));
    return Send(context, artifact, *request, writer);
  });
}

absl::Status ArtifactServiceImpl::Send(grpc::ServerContext* context, const v1::Artifact& artifact,
                                       const v1::ReadRequest& request,
                                       grpc::ServerWriter<v1::ReadResponse>* writer) {
  THAW_ASSIGN_OR_RETURN(Transfers::Slot slot, parts_.transfers.Begin(context, artifact.owner()));
  THAW_ASSIGN_OR_RETURN(const OpenArtifactFile file,
                        parts_.artifacts.OpenFile(artifact, request.path()));
  if (request.offset() < 0 || request.offset() > file.size) {
    return absl::OutOfRangeError(absl::StrCat("offset is ", request.offset(), " but ",
                                              request.path(), " has ", file.size, " bytes"));
  }
  v1::ReadResponse response;
  for (int64_t offset = request.offset(); offset < file.size;) {
    std::string& data = *response.mutable_data();
    data.resize(static_cast<size_t>(std::min(kReadChunkBytes, file.size - offset)));
    const ssize_t count = pread(file.fd.get(), data.data(), data.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return ErrnoStatus(count < 0 ? errno : EIO, "reading " + request.path());
    data.resize(static_cast<size_t>(count));
    if (!writer->Write(response)) return absl::CancelledError("the caller has gone");
    parts_.metrics.AddBytesRead(count);
    slot.Progressed();
    offset += count;
  }
  return absl::OkStatus();
}

grpc::Status ArtifactServiceImpl::DeleteArtifact(grpc::ServerContext* context,
                                                 const v1::DeleteArtifactRequest* request,
                                                 v1::DeleteArtifactResponse* response) {
  return Answer(parts_.metrics, "DeleteArtifact", [&]() -> absl::Status {
    THAW_ASSIGN_OR_RETURN(const Caller caller,
                          parts_.authorizer.Authorize(*context, "DeleteArtifact"));
    return parts_.store.Write([&](Transaction& transaction) {
      return thaw::DeleteArtifact(transaction, caller.scope, request->id());
    });
  });
}

grpc::Status ArtifactServiceImpl::GetDatasetReport(grpc::ServerContext* context,
                                                   const v1::GetDatasetReportRequest* request,
                                                   grpc::ServerWriter<v1::DatasetIssue>* writer) {
  return Answer(parts_.metrics, "GetDatasetReport", [&]() -> absl::Status {
    THAW_ASSIGN_OR_RETURN(const Caller caller,
                          parts_.authorizer.Authorize(*context, "GetDatasetReport"));
    THAW_ASSIGN_OR_RETURN(const v1::Artifact dataset, Find(caller, request->id()));
    if (dataset.kind() != v1::Artifact::DATASET) {
      return InvalidField("id", absl::StrCat("is ", request->id(), ", which is no dataset"));
    }
    if (dataset.state() == v1::Artifact::VALIDATING) {
      return absl::FailedPreconditionError(
          absl::StrCat(request->id(),
                       " is still being read through: ask GetArtifact until it is "
                       "READY or REJECTED"));
    }
    THAW_ASSIGN_OR_RETURN(Transfers::Slot slot, parts_.transfers.Begin(context, caller.owner));
    return ReadDatasetReport(parts_.artifacts.ReportPath(dataset.id()),
                             [&](const v1::DatasetIssue& issue) {
                               slot.Progressed();
                               return writer->Write(issue);
                             });
  });
}

}  // namespace thaw
