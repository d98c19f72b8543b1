#include "tests/common/rpc/fake_artifact_service.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/sha256.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/server_builder.h"

namespace thaw {
namespace {

constexpr size_t kFakeChunkBytes = 100'000;

grpc::Status Broken() { return {grpc::StatusCode::UNAVAILABLE, "broken off on purpose"}; }

}  // namespace

FakeArtifactService::FakeArtifactService() {
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  THAW_CHECK(server_ != nullptr);
}

FakeArtifactService::~FakeArtifactService() { server_->Shutdown(); }

std::unique_ptr<v1::ArtifactService::Stub> FakeArtifactService::Stub() {
  return v1::ArtifactService::NewStub(
      grpc::CreateChannel(absl::StrCat("127.0.0.1:", port_), grpc::InsecureChannelCredentials()));
}

void FakeArtifactService::SetFaults(const Faults& faults) {
  const std::lock_guard<std::mutex> lock(mutex_);
  faults_ = faults;
}

void FakeArtifactService::AddFile(const std::string& artifact, const std::string& path,
                                  const std::string& bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  files_[absl::StrCat(artifact, "/", path)] = bytes;
}

std::string FakeArtifactService::Uploaded(const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return staged_[path];
}

int FakeArtifactService::uploads() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return uploads_;
}

int FakeArtifactService::reads() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return reads_;
}

int64_t FakeArtifactService::bytes_read() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return bytes_read_;
}

std::string FakeArtifactService::last_authorization() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return last_authorization_;
}

v1::Upload FakeArtifactService::UploadLocked() const {
  v1::Upload upload;
  upload.set_id("upload-1");
  for (const v1::File& file : announced_.files()) {
    v1::UploadedFile* one = upload.add_files();
    one->set_path(file.path());
    one->set_committed_size(static_cast<int64_t>(staged_.at(file.path()).size()));
  }
  return upload;
}

grpc::Status FakeArtifactService::CreateUpload(grpc::ServerContext* context,
                                               const v1::CreateUploadRequest* request,
                                               v1::Upload* upload) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto header = context->client_metadata().find("authorization");
  if (header != context->client_metadata().end()) {
    last_authorization_.assign(header->second.data(), header->second.size());
  }
  if (request->request_id() != announced_.request_id()) {
    announced_ = *request;
    staged_.clear();
    for (const v1::File& file : request->files()) staged_[file.path()];
    ++uploads_;
  }
  if (faults_.refuse_creates > 0) {
    --faults_.refuse_creates;
    return Broken();
  }
  *upload = UploadLocked();
  return grpc::Status::OK;
}

grpc::Status FakeArtifactService::Write(grpc::ServerContext* context,
                                        grpc::ServerReader<v1::WriteRequest>* reader,
                                        v1::WriteResponse* response) {
  v1::WriteRequest request;
  std::string path;
  int64_t here = 0;
  while (reader->Read(&request)) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (path.empty()) {
      path = request.path();
      if (request.offset() != static_cast<int64_t>(staged_[path].size())) {
        return {grpc::StatusCode::OUT_OF_RANGE, "not the committed size"};
      }
    }
    if (faults_.break_writes > 0 && here >= faults_.break_after) {
      --faults_.break_writes;
      return Broken();
    }
    staged_[path] += request.data();
    here += static_cast<int64_t>(request.data().size());
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  response->set_committed_size(static_cast<int64_t>(staged_[path].size()));
  return grpc::Status::OK;
}

grpc::Status FakeArtifactService::QueryWrite(grpc::ServerContext* context,
                                             const v1::QueryWriteRequest* request,
                                             v1::Upload* upload) {
  const std::lock_guard<std::mutex> lock(mutex_);
  *upload = UploadLocked();
  return grpc::Status::OK;
}

grpc::Status FakeArtifactService::FinishUpload(grpc::ServerContext* context,
                                               const v1::FinishUploadRequest* request,
                                               v1::Artifact* artifact) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const v1::File& file : announced_.files()) {
    if (Sha256Hex(staged_[file.path()]) != file.sha256()) {
      return {grpc::StatusCode::DATA_LOSS, absl::StrCat(file.path(), " has another SHA-256")};
    }
  }
  artifact->set_id("model-1");
  *artifact->mutable_files() = announced_.files();
  return grpc::Status::OK;
}

grpc::Status FakeArtifactService::Read(grpc::ServerContext* context, const v1::ReadRequest* request,
                                       grpc::ServerWriter<v1::ReadResponse>* writer) {
  std::string bytes;
  bool breaks = false, ends_early = false;
  int64_t break_after = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++reads_;
    if (faults_.read_code != grpc::StatusCode::OK) return {faults_.read_code, "as told"};
    const auto found = files_.find(absl::StrCat(request->id(), "/", request->path()));
    if (found == files_.end()) return {grpc::StatusCode::NOT_FOUND, "no such file"};
    bytes = found->second.substr(static_cast<size_t>(request->offset()));
    if (faults_.corrupt_reads > 0 && !bytes.empty()) {
      --faults_.corrupt_reads;
      bytes[0] = static_cast<char>(bytes[0] ^ 1);
    }
    bytes.append(static_cast<size_t>(faults_.extra_bytes), 'x');
    breaks = faults_.break_reads > 0;
    ends_early = faults_.end_reads_early > 0;
    if (breaks) --faults_.break_reads;
    if (ends_early) --faults_.end_reads_early;
    break_after = faults_.break_after;
  }
  for (size_t at = 0; at < bytes.size(); at += kFakeChunkBytes) {
    if ((breaks || ends_early) && static_cast<int64_t>(at) >= break_after) {
      return breaks ? Broken() : grpc::Status::OK;
    }
    v1::ReadResponse response;
    response.set_data(bytes.substr(at, kFakeChunkBytes));
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      bytes_read_ += static_cast<int64_t>(response.data().size());
    }
    if (!writer->Write(response)) break;
  }
  return grpc::Status::OK;
}

}  // namespace thaw
