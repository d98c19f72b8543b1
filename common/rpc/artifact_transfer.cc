#include "common/rpc/artifact_transfer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <memory>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/id.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/base/unique_fd.h"
#include "common/rpc/status.h"

namespace thaw {
namespace {

constexpr size_t kChunkBytes = 256 << 10;
constexpr auto kUnaryDeadline = std::chrono::seconds(30);
// Verifying gigabytes on the server's disk takes its time.
constexpr auto kFinishDeadline = std::chrono::minutes(10);

bool WorthRetrying(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsAborted(status) ||
         absl::IsDeadlineExceeded(status) || absl::IsResourceExhausted(status);
}

// Doubles from 100 ms; what the server asks for goes first.
void WaitBeforeRetry(const absl::Status& status, int failures) {
  const double asked = RetryAfterOf(status);
  const double seconds =
      asked > 0 ? std::min(asked, 30.0) : std::min(0.1 * (1 << std::min(failures, 6)), 5.0);
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

template <typename Call>
absl::Status RetryCall(const TransferOptions& options, std::chrono::milliseconds deadline,
                       Call call) {
  for (int failures = 0;;) {
    grpc::ClientContext context;
    Identify(options.identity, context);
    context.set_deadline(std::chrono::system_clock::now() + deadline);
    absl::Status status = FromGrpcStatus(call(context));
    if (status.ok() || !WorthRetrying(status) || ++failures >= options.tries) return status;
    if (options.cancelled && options.cancelled())
      return absl::CancelledError("the transfer was cancelled");
    WaitBeforeRetry(status, failures);
  }
}

// Tells progress over all files of a transfer.
class Meter {
 public:
  Meter(const TransferOptions& options, int64_t total) : options_(options), total_(total) {}
  void Set(int64_t in_file) {
    if (options_.on_progress) options_.on_progress(before_ + in_file, total_);
  }
  void EndFile(int64_t size) { before_ += size, Set(0); }
  bool cancelled() const { return options_.cancelled && options_.cancelled(); }

 private:
  const TransferOptions& options_;
  const int64_t total_;
  int64_t before_ = 0;
};

int64_t TotalSize(const google::protobuf::RepeatedPtrField<v1::File>& files) {
  int64_t total = 0;
  for (const v1::File& file : files) total += file.size();
  return total;
}

// One Write stream from `offset`; gives the server's committed size.
absl::StatusOr<int64_t> WriteOnce(v1::ArtifactService::StubInterface& stub,
                                  const std::string& upload_id, const v1::File& file,
                                  const std::string& path, int64_t offset, Meter& meter,
                                  const TransferOptions& options) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("opening ", path));
  grpc::ClientContext context;
  Identify(options.identity, context);
  v1::WriteResponse response;
  const auto writer = stub.Write(&context, &response);
  v1::WriteRequest request;
  request.set_upload_id(upload_id);
  request.set_path(file.path());
  request.set_offset(offset);
  absl::Status local;
  bool open_stream = true;
  while (open_stream && local.ok() && offset < file.size()) {
    std::string& data = *request.mutable_data();
    data.resize(static_cast<size_t>(std::min<int64_t>(kChunkBytes, file.size() - offset)));
    const ssize_t count = pread(fd.get(), data.data(), data.size(), offset);
    if (count <= 0) {
      local = count < 0 ? ErrnoStatus(errno, absl::StrCat("reading ", path))
                        : absl::FailedPreconditionError(
                              absl::StrCat(path, " shrank while it was being sent"));
    } else {
      data.resize(static_cast<size_t>(count));
      offset += count;
      open_stream = writer->Write(request);
      request.Clear();
      meter.Set(offset);
      if (meter.cancelled()) local = absl::CancelledError("the transfer was cancelled");
    }
  }
  if (!local.ok()) context.TryCancel();
  writer->WritesDone();
  const absl::Status remote = FromGrpcStatus(writer->Finish());
  if (!local.ok()) return local;
  THAW_RETURN_IF_ERROR(remote);
  return response.committed_size();
}

absl::Status SendFile(v1::ArtifactService::StubInterface& stub, const v1::Upload& upload,
                      const v1::File& file, const std::string& path, int64_t committed,
                      Meter& meter, const TransferOptions& options) {
  for (int failures = 0; committed < file.size();) {
    auto sent = WriteOnce(stub, upload.id(), file, path, committed, meter, options);
    int64_t now_committed = committed;
    if (sent.ok()) {
      now_committed = *sent;
    } else {
      if (!WorthRetrying(sent.status()) || failures + 1 >= options.tries) return sent.status();
      WaitBeforeRetry(sent.status(), failures);
      v1::QueryWriteRequest query;
      query.set_upload_id(upload.id());
      v1::Upload state;
      THAW_RETURN_IF_ERROR(RetryCall(options, kUnaryDeadline, [&](grpc::ClientContext& context) {
        return stub.QueryWrite(&context, query, &state);
      }));
      for (const v1::UploadedFile& one : state.files()) {
        if (one.path() == file.path()) now_committed = one.committed_size();
      }
    }
    failures = now_committed > committed ? 0 : failures + 1;
    if (failures >= options.tries) {
      return absl::UnavailableError(
          absl::StrCat("the server does not take ", file.path(), " any further"));
    }
    committed = now_committed;
  }
  return absl::OkStatus();
}

absl::Status ReadOnce(v1::ArtifactService::StubInterface& stub, const v1::ReadRequest& request,
                      int fd, Sha256& hash, int64_t& received, int64_t size, Meter& meter,
                      const TransferOptions& options) {
  grpc::ClientContext context;
  Identify(options.identity, context);
  const auto reader = stub.Read(&context, request);
  v1::ReadResponse response;
  absl::Status local;
  while (local.ok() && reader->Read(&response)) {
    const std::string& data = response.data();
    if (received + static_cast<int64_t>(data.size()) > size) {
      local = absl::DataLossError(absl::StrCat(request.path(), " is longer than announced"));
    } else if (pwrite(fd, data.data(), data.size(), received) !=
               static_cast<ssize_t>(data.size())) {
      local = ErrnoStatus(errno, absl::StrCat("writing ", request.path()));
    } else {
      hash.Update(data);
      received += static_cast<int64_t>(data.size());
      meter.Set(received);
      if (meter.cancelled()) local = absl::CancelledError("the transfer was cancelled");
    }
  }
  if (!local.ok()) context.TryCancel();
  const absl::Status remote = FromGrpcStatus(reader->Finish());
  return local.ok() ? remote : local;
}

// Hashes what an earlier call left, so that the stream goes on after it.
absl::Status HashPrefix(int fd, const std::string& path, Sha256& hash, int64_t& size) {
  std::vector<char> buffer(1 << 20);
  while (true) {
    const ssize_t count = pread(fd, buffer.data(), buffer.size(), size);
    if (count < 0) return ErrnoStatus(errno, absl::StrCat("reading ", path));
    if (count == 0) return absl::OkStatus();
    hash.Update(absl::string_view(buffer.data(), static_cast<size_t>(count)));
    size += count;
  }
}

absl::Status FetchFile(v1::ArtifactService::StubInterface& stub, const std::string& artifact_id,
                       const v1::File& file, const std::string& target, Meter& meter,
                       const TransferOptions& options) {
  if (Exists(target)) {
    const auto digest = DigestFile(target);
    if (digest.ok() && digest->sha256 == file.sha256()) return absl::OkStatus();
  }
  const std::string part = absl::StrCat(target, ".part");
  UniqueFd fd(open(part.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("opening ", part));
  Sha256 hash;
  int64_t received = 0;
  THAW_RETURN_IF_ERROR(HashPrefix(fd.get(), part, hash, received));
  if (received > file.size()) {
    if (ftruncate(fd.get(), 0) != 0) return ErrnoStatus(errno, part);
    hash = Sha256();
    received = 0;
  }
  for (int failures = 0; received < file.size();) {
    v1::ReadRequest request;
    request.set_id(artifact_id);
    request.set_path(file.path());
    request.set_offset(received);
    const int64_t before = received;
    const absl::Status status =
        ReadOnce(stub, request, fd.get(), hash, received, file.size(), meter, options);
    if (!status.ok() && !WorthRetrying(status)) return status;
    failures = received > before ? 0 : failures + 1;
    if (received < file.size()) {
      if (failures >= options.tries) {
        return status.ok()
                   ? absl::DataLossError(absl::StrCat(file.path(), " is shorter than announced"))
                   : status;
      }
      WaitBeforeRetry(status, failures);
    }
  }
  if (hash.HexDigest() != file.sha256()) {
    unlink(part.c_str());
    return absl::DataLossError(
        absl::StrCat(file.path(),
                     " arrived with another sha256 than announced; it was removed, "
                     "fetch again"));
  }
  if (fsync(fd.get()) != 0) return ErrnoStatus(errno, absl::StrCat("fsync of ", part));
  if (rename(part.c_str(), target.c_str()) != 0)
    return ErrnoStatus(errno, absl::StrCat("renaming to ", target));
  return absl::OkStatus();
}

}  // namespace

absl::Status DescribeFiles(const std::string& directory,
                           google::protobuf::RepeatedPtrField<v1::File>* files) {
  THAW_ASSIGN_OR_RETURN(const std::vector<FileEntry> entries, ListFiles(directory));
  for (const FileEntry& entry : entries) {
    if (!IsSafeRelativePath(entry.path)) {
      return InvalidField(
          entry.path,
          "this file name is not taken; use letters, digits, '.', '_' and '-', beginning with "
          "a letter or digit, in at most four parts");
    }
    THAW_ASSIGN_OR_RETURN(const FileDigest digest,
                          DigestFile(absl::StrCat(directory, "/", entry.path)));
    v1::File& file = *files->Add();
    file.set_path(entry.path);
    file.set_size(digest.size);
    file.set_sha256(digest.sha256);
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Upload> UploadDirectory(v1::ArtifactService::StubInterface& stub,
                                           const std::string& directory,
                                           v1::CreateUploadRequest request,
                                           const TransferOptions& options) {
  request.clear_files();
  THAW_RETURN_IF_ERROR(DescribeFiles(directory, request.mutable_files()));
  if (request.request_id().empty()) request.set_request_id(RandomId());
  v1::Upload upload;
  THAW_RETURN_IF_ERROR(RetryCall(options, kUnaryDeadline, [&](grpc::ClientContext& context) {
    return stub.CreateUpload(&context, request, &upload);
  }));
  Meter meter(options, TotalSize(request.files()));
  for (const v1::File& file : request.files()) {
    int64_t committed = 0;
    for (const v1::UploadedFile& one : upload.files()) {
      if (one.path() == file.path()) committed = one.committed_size();
    }
    THAW_RETURN_IF_ERROR(SendFile(stub, upload, file, absl::StrCat(directory, "/", file.path()),
                                  committed, meter, options));
    meter.EndFile(file.size());
  }
  return upload;
}

absl::StatusOr<v1::Artifact> FinishUpload(v1::ArtifactService::StubInterface& stub,
                                          const v1::FinishUploadRequest& request,
                                          const TransferOptions& options) {
  v1::Artifact artifact;
  THAW_RETURN_IF_ERROR(RetryCall(options, kFinishDeadline, [&](grpc::ClientContext& context) {
    return stub.FinishUpload(&context, request, &artifact);
  }));
  return artifact;
}

absl::Status DownloadArtifact(v1::ArtifactService::StubInterface& stub,
                              const v1::Artifact& artifact, const std::string& directory,
                              const TransferOptions& options) {
  Meter meter(options, TotalSize(artifact.files()));
  THAW_RETURN_IF_ERROR(MakeDirectories(directory));
  for (const v1::File& file : artifact.files()) {
    // The server's names are as little trusted as a client's.
    if (!IsSafeRelativePath(file.path())) {
      return absl::DataLossError(
          absl::StrCat("the server named a file that leads elsewhere: ", file.path()));
    }
    const std::string target = absl::StrCat(directory, "/", file.path());
    THAW_RETURN_IF_ERROR(MakeDirectories(std::filesystem::path(target).parent_path().string()));
    THAW_RETURN_IF_ERROR(FetchFile(stub, artifact.id(), file, target, meter, options));
    meter.EndFile(file.size());
  }
  return FsyncDirectory(directory);
}

}  // namespace thaw
