#include "common/rpc/artifact_transfer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/files.h"
#include "common/base/id.h"
#include "common/base/log.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/base/unique_fd.h"
#include "common/base/writeback.h"
#include "common/rpc/status.h"

namespace thaw {
namespace {

using Stub = v1::ArtifactService::StubInterface;

constexpr size_t kChunkBytes = 256 << 10;
constexpr double kCallSeconds = 30;
// A server may read a whole artifact through before it answers FinishUpload.
constexpr double kFinishSeconds = 1800;
// Without a byte for so long a stream is taken for dead.
constexpr double kStallSeconds = 60;

bool MayGoOn(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsResourceExhausted(status) || absl::IsOutOfRange(status);
}

// Counts bytes over all files of a transfer and judges whether to try again.
class Advance {
 public:
  Advance(const TransferOptions& options, int64_t total)
      : options_(options), total_(total), moved_micros_(RealClock().BootMicros()) {}

  // `bytes` may be negative when some have to be moved again.
  absl::Status Add(int64_t bytes) {
    done_ += bytes;
    if (bytes > 0) {
      moved_micros_ = RealClock().BootMicros();
      wait_seconds_ = 0.05;
    }
    if (options_.progress) options_.progress(done_, total_);
    return CheckCancelled();
  }

  absl::Status CheckCancelled() const {
    const bool cancelled = options_.cancelled && options_.cancelled();
    return cancelled ? absl::CancelledError("the transfer was stopped") : absl::OkStatus();
  }

  // After `status` broke a call: waits and returns OK, or returns `status` for good.
  absl::Status WaitToRetry(const absl::Status& status) {
    THAW_RETURN_IF_ERROR(CheckCancelled());
    const double still = static_cast<double>(RealClock().BootMicros() - moved_micros_) * 1e-6;
    if (!MayGoOn(status) || still >= options_.retry_seconds) return status;
    if (options_.wait) {
      options_.wait(wait_seconds_);
    } else {
      std::this_thread::sleep_for(std::chrono::duration<double>(wait_seconds_));
    }
    wait_seconds_ = std::min(2.0, wait_seconds_ * 2);
    return CheckCancelled();
  }

 private:
  const TransferOptions& options_;
  const int64_t total_;
  int64_t done_ = 0;
  int64_t moved_micros_;
  double wait_seconds_ = 0.05;
};

void Prepare(const TransferOptions& options, double seconds, grpc::ClientContext* context) {
  context->set_deadline(std::chrono::system_clock::now() +
                        std::chrono::microseconds(static_cast<int64_t>(seconds * 1e6)));
  if (options.prepare) options.prepare(context);
}

template <typename Request, typename Response>
absl::Status CallUntilAnswered(
    Stub* stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
    const Request& request, double seconds, const TransferOptions& options, Advance* advance,
    Response* response) {
  while (true) {
    grpc::ClientContext context;
    Prepare(options, seconds, &context);
    const absl::Status status = FromGrpcStatus((stub->*method)(&context, request, response));
    if (status.ok()) return status;
    THAW_RETURN_IF_ERROR(advance->WaitToRetry(status));
  }
}

// Time for `bytes` at a pace below which nobody would wait, and at least the stall's.
double StreamSeconds(int64_t bytes) {
  return kStallSeconds + static_cast<double>(bytes) / (64 << 10);
}

absl::Status ReadExactly(int fd, int64_t offset, size_t size, const std::string& path,
                         std::string* data) {
  data->resize(size);
  size_t done = 0;
  while (done < size) {
    const ssize_t n = pread(fd, data->data() + done, size - done,
                            static_cast<off_t>(offset + static_cast<int64_t>(done)));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, path);
    if (n == 0) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, " became shorter while it was read; transfer it again"));
    }
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status WriteExactly(int fd, int64_t offset, absl::string_view data, const std::string& path) {
  while (!data.empty()) {
    const ssize_t n = pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, path);
    offset += n;
    data.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

// One Write call from `*committed` on; `*committed` is what the server then has on disk.
absl::Status WriteOnce(Stub* stub, const std::string& upload_id, const v1::File& file, int fd,
                       const std::string& local_path, const TransferOptions& options,
                       Advance* advance, int64_t* committed) {
  grpc::ClientContext context;
  Prepare(options, StreamSeconds(file.size() - *committed), &context);
  v1::WriteResponse response;
  const auto writer = stub->Write(&context, &response);
  int64_t offset = *committed;
  bool first = true;
  absl::Status local;
  do {
    v1::WriteRequest request;
    if (std::exchange(first, false)) {
      request.set_upload_id(upload_id);
      request.set_path(file.path());
      request.set_offset(offset);
    }
    const auto size = static_cast<size_t>(std::min<int64_t>(kChunkBytes, file.size() - offset));
    local = ReadExactly(fd, offset, size, local_path, request.mutable_data());
    if (!local.ok() || !writer->Write(request)) break;
    offset += static_cast<int64_t>(size);
    local = advance->Add(static_cast<int64_t>(size));
  } while (local.ok() && offset < file.size());
  if (!local.ok()) context.TryCancel();
  writer->WritesDone();
  const absl::Status status = FromGrpcStatus(writer->Finish());
  THAW_RETURN_IF_ERROR(local);
  if (status.ok()) *committed = response.committed_size();
  // Bytes that were sent but did not arrive will be sent again.
  THAW_RETURN_IF_ERROR(advance->Add(*committed - offset));
  return status;
}

absl::StatusOr<int64_t> CommittedSize(Stub* stub, const std::string& upload_id,
                                      const std::string& path, const TransferOptions& options,
                                      Advance* advance) {
  v1::QueryWriteRequest request;
  request.set_upload_id(upload_id);
  v1::Upload upload;
  THAW_RETURN_IF_ERROR(
      CallUntilAnswered(stub, &Stub::QueryWrite, request, kCallSeconds, options, advance, &upload));
  for (const v1::UploadedFile& file : upload.files()) {
    if (file.path() == path) return file.committed_size();
  }
  return absl::DataLossError(absl::StrCat("the server does not know ", path, " of ", upload_id));
}

absl::Status SendFile(Stub* stub, const v1::Upload& upload, const v1::File& file,
                      const std::string& local_path, const TransferOptions& options,
                      Advance* advance) {
  const UniqueFd fd(open(local_path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, local_path);
  int64_t committed = 0;
  for (const v1::UploadedFile& one : upload.files()) {
    if (one.path() == file.path()) committed = one.committed_size();
  }
  THAW_RETURN_IF_ERROR(advance->Add(committed));
  while (committed < file.size()) {
    const absl::Status status =
        WriteOnce(stub, upload.id(), file, fd.get(), local_path, options, advance, &committed);
    if (status.ok()) continue;
    THAW_RETURN_IF_ERROR(advance->WaitToRetry(status));
    THAW_ASSIGN_OR_RETURN(const int64_t now,
                          CommittedSize(stub, upload.id(), file.path(), options, advance));
    THAW_RETURN_IF_ERROR(advance->Add(now - committed));
    committed = now;
  }
  return absl::OkStatus();
}

// What is here of a file that comes: its beginning, hashed as far as it goes.
struct Part {
  UniqueFd fd;
  std::string path;
  int64_t size = 0;
  Sha256 hash;
};

// Opens what an earlier call left, or nothing if it is too long or not `wanted`.
absl::StatusOr<Part> OpenPart(const std::string& path, int64_t most, bool wanted) {
  Part part;
  part.path = path;
  part.fd = UniqueFd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!part.fd.valid()) return ErrnoStatus(errno, path);
  // Two that write one file could each find what it wrote right, and what lies there wrong.
  if (flock(part.fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": another download writes it: wait for that, or give another place"));
  }
  struct stat info {};
  if (fstat(part.fd.get(), &info) != 0) return ErrnoStatus(errno, path);
  if (!wanted || info.st_size > most) {
    if (ftruncate(part.fd.get(), 0) != 0) return ErrnoStatus(errno, path);
    return part;
  }
  std::string data;
  while (part.size < info.st_size) {
    const auto size = static_cast<size_t>(std::min<int64_t>(1 << 20, info.st_size - part.size));
    THAW_RETURN_IF_ERROR(ReadExactly(part.fd.get(), part.size, size, path, &data));
    part.hash.Update(data);
    part.size += static_cast<int64_t>(size);
  }
  return part;
}

absl::Status AppendTo(Part* part, absl::string_view data) {
  // At its place: what a write that broke off has left is written over by the next try.
  THAW_RETURN_IF_ERROR(WriteExactly(part->fd.get(), part->size, data, part->path));
  part->hash.Update(data);
  StartWriteback(part->fd.get(), part->size, static_cast<int64_t>(data.size()));
  part->size += static_cast<int64_t>(data.size());
  return absl::OkStatus();
}

// One Read call appended to `part`.
absl::Status ReadOnce(Stub* stub, const std::string& artifact, const v1::File& file,
                      const TransferOptions& options, Advance* advance, Part* part) {
  grpc::ClientContext context;
  Prepare(options, StreamSeconds(file.size() - part->size), &context);
  v1::ReadRequest request;
  request.set_id(artifact);
  request.set_path(file.path());
  request.set_offset(part->size);
  const auto reader = stub->Read(&context, request);
  v1::ReadResponse response;
  absl::Status local;
  while (local.ok() && reader->Read(&response)) {
    const auto bytes = static_cast<int64_t>(response.data().size());
    if (part->size + bytes > file.size()) {
      local = absl::DataLossError(absl::StrCat(file.path(), " is longer than was announced"));
      break;
    }
    local = AppendTo(part, response.data());
    if (local.ok()) local = advance->Add(bytes);
  }
  if (!local.ok()) context.TryCancel();
  const absl::Status status = FromGrpcStatus(reader->Finish());
  if (!local.ok()) return local;
  if (status.ok() && part->size < file.size()) {
    return absl::UnavailableError(absl::StrCat(file.path(), " ended early"));
  }
  return status;
}

bool HasDigest(const std::string& path, const v1::File& file) {
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode) || info.st_size != file.size()) {
    return false;
  }
  const absl::StatusOr<FileDigest> digest = DigestFile(path);
  return digest.ok() && digest->sha256 == file.sha256();
}

absl::Status ReceiveFile(Stub* stub, const std::string& artifact, const v1::File& file,
                         const std::string& local_path, const TransferOptions& options,
                         Advance* advance) {
  if (HasDigest(local_path, file)) return advance->Add(file.size());
  const std::string path = absl::StrCat(local_path, ".part");
  // A part of another version is found out by its hash; then it is fetched once more from the
  // start.
  for (const bool last_try : {false, true}) {
    THAW_ASSIGN_OR_RETURN(Part part, OpenPart(path, file.size(), /*wanted=*/!last_try));
    THAW_RETURN_IF_ERROR(advance->Add(part.size));
    while (part.size < file.size()) {
      const absl::Status status = ReadOnce(stub, artifact, file, options, advance, &part);
      if (!status.ok()) THAW_RETURN_IF_ERROR(advance->WaitToRetry(status));
    }
    if (fsync(part.fd.get()) != 0) return ErrnoStatus(errno, path);
    if (part.hash.HexDigest() == file.sha256()) {
      if (rename(path.c_str(), local_path.c_str()) != 0) return ErrnoStatus(errno, local_path);
      return FsyncDirectory(local_path.substr(0, local_path.rfind('/')));
    }
    THAW_RETURN_IF_ERROR(advance->Add(-part.size));
  }
  (void)unlink(path.c_str());
  return absl::DataLossError(absl::StrCat(file.path(), " of ", artifact,
                                          " came with another SHA-256 than announced, twice"));
}

}  // namespace

absl::StatusOr<v1::File> DescribeFile(const std::string& local_path, const std::string& path) {
  THAW_ASSIGN_OR_RETURN(const FileDigest digest, DigestFile(local_path));
  v1::File file;
  file.set_path(path);
  file.set_size(digest.size);
  file.set_sha256(digest.sha256);
  return file;
}

absl::StatusOr<v1::Artifact> UploadArtifact(Stub* stub, v1::CreateUploadRequest request,
                                            const std::vector<std::string>& local_paths,
                                            v1::FinishUploadRequest finish,
                                            const TransferOptions& options) {
  THAW_CHECK(static_cast<int>(local_paths.size()) == request.files_size());
  if (request.request_id().empty()) request.set_request_id(RandomId());
  int64_t total = 0;
  for (const v1::File& file : request.files()) total += file.size();
  Advance advance(options, total);
  v1::Upload upload;
  THAW_RETURN_IF_ERROR(CallUntilAnswered(stub, &Stub::CreateUpload, request, kCallSeconds, options,
                                         &advance, &upload));
  for (int i = 0; i < request.files_size(); ++i) {
    THAW_RETURN_IF_ERROR(SendFile(stub, upload, request.files(i),
                                  local_paths[static_cast<size_t>(i)], options, &advance));
  }
  finish.set_upload_id(upload.id());
  v1::Artifact artifact;
  THAW_RETURN_IF_ERROR(CallUntilAnswered(stub, &Stub::FinishUpload, finish, kFinishSeconds, options,
                                         &advance, &artifact));
  return artifact;
}

absl::Status DownloadArtifact(Stub* stub, const v1::Artifact& artifact,
                              const std::string& directory, const TransferOptions& options) {
  int64_t total = 0;
  for (const v1::File& file : artifact.files()) {
    // The server's word alone must not lead outside the directory.
    if (!IsSafeRelativePath(file.path())) {
      return absl::DataLossError(absl::StrCat("the server names an unsafe path: ", file.path()));
    }
    total += file.size();
  }
  THAW_RETURN_IF_ERROR(MakeDirectories(directory));
  Advance advance(options, total);
  for (const v1::File& file : artifact.files()) {
    const std::string path = absl::StrCat(directory, "/", file.path());
    THAW_RETURN_IF_ERROR(MakeDirectories(path.substr(0, path.rfind('/'))));
    THAW_RETURN_IF_ERROR(ReceiveFile(stub, artifact.id(), file, path, options, &advance));
  }
  return absl::OkStatus();
}

}  // namespace thaw
