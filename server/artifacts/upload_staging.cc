#include "server/artifacts/upload_staging.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/id.h"
#include "common/base/log.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/base/writeback.h"
#include "server/jobs/artifact_table.h"

namespace thaw {
namespace {

absl::Status NoSuchUpload(const std::string& id) {
  return absl::NotFoundError(
      absl::StrCat("there is no upload ", id, ": it may have expired or been finished"));
}

void SetExpireTime(int64_t micros, v1::Upload* upload) {
  upload->mutable_expire_time()->set_seconds(micros / 1'000'000);
  upload->mutable_expire_time()->set_nanos(static_cast<int32_t>(micros % 1'000'000) * 1000);
}

}  // namespace

struct StagedFile {
  int64_t written = 0;     // bytes in the file
  int64_t committed = 0;   // bytes fsynced
  int64_t generation = 0;  // of the newest writer
  // Of the file's first `hashed` bytes, as they came. All of them, unless it was written by an
  // earlier process or some were replaced.
  Sha256 hash;
  int64_t hashed = 0;
};

struct StagedEntry {
  StagedEntry(UploadRecord upload, std::string path)
      : record(std::move(upload)),
        directory(std::move(path)),
        files(record.request.files_size()),
        expire_micros(record.expire_micros) {}

  const UploadRecord record;
  const std::string directory;
  // Held by a Publication for as long as it lives. Taken before `mutex`.
  Mutex publishing;
  Mutex mutex;
  std::vector<StagedFile> files THAW_GUARDED_BY(mutex);
  DiskBudget::Reservation reservation THAW_GUARDED_BY(mutex);
  int64_t expire_micros THAW_GUARDED_BY(mutex);
  bool sealed THAW_GUARDED_BY(mutex) = false;  // being published
  bool gone THAW_GUARDED_BY(mutex) = false;    // published or expired

  std::string PathOf(int file) const {
    return absl::StrCat(directory, "/", record.request.files(file).path());
  }
  absl::Status Commit(int file, int fd) THAW_REQUIRES(mutex) {
    StagedFile& state = files[file];
    if (state.committed == state.written) return absl::OkStatus();
    if (fdatasync(fd) != 0) return ErrnoStatus(errno, absl::StrCat("saving ", PathOf(file)));
    state.committed = state.written;
    return absl::OkStatus();
  }
  v1::Upload ToUpload() const THAW_REQUIRES(mutex) {
    v1::Upload upload;
    upload.set_id(record.id);
    for (size_t i = 0; i < files.size(); ++i) {
      v1::UploadedFile* file = upload.add_files();
      file->set_path(record.request.files(static_cast<int>(i)).path());
      file->set_committed_size(files[i].committed);
    }
    SetExpireTime(expire_micros, &upload);
    return upload;
  }
};

UploadStaging::Writer::~Writer() {
  if (entry_ != nullptr) (void)Commit();
}

absl::Status UploadStaging::Writer::Append(absl::string_view bytes) {
  MutexLock lock(entry_->mutex);
  StagedFile& state = entry_->files[file_];
  if (state.generation != generation_ || entry_->sealed || entry_->gone) {
    return WithReason(
        absl::AbortedError("a newer Write, or the end of this upload, has taken its place"),
        "WRITE_REPLACED");
  }
  const v1::File& announced = entry_->record.request.files(file_);
  if (state.written + static_cast<int64_t>(bytes.size()) > announced.size()) {
    return absl::OutOfRangeError(absl::StrCat(announced.path(), " was announced with ",
                                              announced.size(), " bytes: more than that came"));
  }
  while (!bytes.empty()) {
    const ssize_t count = pwrite(fd_.get(), bytes.data(), bytes.size(), state.written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, absl::StrCat("writing ", announced.path()));
    if (state.hashed == state.written) {
      state.hash.Update(bytes.substr(0, static_cast<size_t>(count)));
      state.hashed += count;
    }
    StartWriteback(fd_.get(), state.written, count);
    state.written += count;
    entry_->reservation.Release(count);
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> UploadStaging::Writer::Commit() {
  MutexLock lock(entry_->mutex);
  if (entry_->gone) return NoSuchUpload(entry_->record.id);
  if (entry_->files[file_].generation == generation_) {
    THAW_RETURN_IF_ERROR(entry_->Commit(file_, fd_.get()));
  }
  return entry_->files[file_].committed;
}

UploadStaging::Publication::~Publication() {
  if (entry_ == nullptr) return;
  {
    MutexLock lock(entry_->mutex);
    entry_->sealed = false;
  }
  entry_->publishing.Unlock();
}

const UploadRecord& UploadStaging::Publication::upload() const { return entry_->record; }

const std::string& UploadStaging::Publication::directory() const { return entry_->directory; }

absl::Status UploadStaging::Publication::Verify() {
  {
    // All sizes before the first hash: what is incomplete must cost nothing.
    MutexLock lock(entry_->mutex);
    for (int i = 0; i < upload().request.files_size(); ++i) {
      const v1::File& announced = upload().request.files(i);
      if (entry_->files[i].written == announced.size()) continue;
      return WithReason(absl::FailedPreconditionError(absl::StrCat(
                            announced.path(), " has ", entry_->files[i].written, " of ",
                            announced.size(), " bytes: Write the rest, then finish again")),
                        "UPLOAD_INCOMPLETE");
    }
  }
  for (int i = 0; i < upload().request.files_size(); ++i) {
    const v1::File& announced = upload().request.files(i);
    const std::string path = entry_->PathOf(i);
    THAW_ASSIGN_OR_RETURN(const FileDigest digest, Digest(i));
    if (digest.sha256 == announced.sha256() && digest.size == announced.size()) continue;
    MutexLock lock(entry_->mutex);
    if (truncate(path.c_str(), 0) != 0) return ErrnoStatus(errno, absl::StrCat("emptying ", path));
    entry_->files[i].written = entry_->files[i].committed = 0;
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          announced.path(), " has the SHA-256 ", digest.sha256, ", not ",
                          announced.sha256(), " as announced: Write it again from offset 0")),
                      "HASH_MISMATCH");
  }
  return absl::OkStatus();
}

absl::StatusOr<FileDigest> UploadStaging::Publication::Digest(int file) {
  {
    MutexLock lock(entry_->mutex);
    StagedFile& state = entry_->files[file];
    const int64_t hashed = std::exchange(state.hashed, 0);
    Sha256 hash = std::exchange(state.hash, Sha256());
    if (hashed == state.written) return FileDigest{hash.HexDigest(), hashed};
  }
  return DigestFile(entry_->PathOf(file));
}

void UploadStaging::Publication::Finish() { staging_->Forget(entry_); }

UploadStaging::UploadStaging(StagingOptions options, Store& store, DiskBudget& budget,
                             const Clock& clock)
    : options_(std::move(options)), store_(store), budget_(budget), clock_(clock) {}

int64_t UploadStaging::Lifetime(const v1::CreateUploadRequest& request) const {
  return request.attempt_id().empty() ? options_.expiry_micros : options_.attempt_expiry_micros;
}

DiskBudget::Claim UploadStaging::ClaimOf(const UploadRecord& upload) const {
  if (!upload.request.attempt_id().empty()) return {.of_running_job = true};
  return {.owner = upload.owner == options_.owner_without_share ? "" : upload.owner};
}

absl::Status UploadStaging::Load() {
  THAW_RETURN_IF_ERROR(MakeDirectories(options_.directory));
  THAW_ASSIGN_OR_RETURN(const auto records,
                        store_.Read([](Reader& reader) { return AllUploads(reader); }));
  for (const UploadRecord& record : records) {
    if (!record.artifact.empty()) continue;
    auto entry = LoadEntry(record);
    if (entry != nullptr) {
      MutexLock lock(mutex_);
      entries_[record.id] = std::move(entry);
      continue;
    }
    THAW_LOG(kWarning, "upload_dropped", {"upload", record.id}, {"reason", "its files are gone"});
    THAW_RETURN_IF_ERROR(store_.Write([&](Transaction& t) { return DeleteUpload(t, record.id); }));
  }
  std::error_code error;
  for (const auto& found : std::filesystem::directory_iterator(options_.directory, error)) {
    if (Entry(found.path().filename().string()).ok()) continue;
    THAW_RETURN_IF_ERROR(RemoveTree(found.path().string()));
  }
  if (error) return ErrnoStatus(error.value(), absl::StrCat("reading ", options_.directory));
  RemoveExpired();
  return absl::OkStatus();
}

std::shared_ptr<StagedEntry> UploadStaging::LoadEntry(const UploadRecord& record) {
  auto entry =
      std::make_shared<StagedEntry>(record, absl::StrCat(options_.directory, "/", record.id));
  MutexLock lock(entry->mutex);
  int64_t missing = 0, here = 0;
  for (int i = 0; i < record.request.files_size(); ++i) {
    const int64_t announced = record.request.files(i).size();
    const UniqueFd fd(open(entry->PathOf(i).c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC));
    struct stat info;
    if (fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) return nullptr;
    entry->files[i].written = std::min<int64_t>(info.st_size, announced);
    if (ftruncate(fd.get(), entry->files[i].written) != 0) return nullptr;
    if (!entry->Commit(i, fd.get()).ok()) return nullptr;
    missing += announced - entry->files[i].written;
    here += entry->files[i].written;
  }
  DiskBudget::Claim claim = ClaimOf(record);
  claim.admitted = true;
  claim.on_disk = here;
  if (auto reservation = budget_.Reserve(missing, claim); reservation.ok()) {
    entry->reservation = *std::move(reservation);
  }
  return entry;
}

absl::StatusOr<v1::Upload> UploadStaging::Create(const std::string& owner,
                                                 const v1::CreateUploadRequest& request) {
  // Up to the row: of two equal requests at a time the later one must see the upload of the other,
  // whose room is its own, and all of an owner's count against its limit.
  MutexLock creating(creating_[std::hash<std::string>()(owner) % creating_.size()]);
  int unfinished = 0;
  bool repeated = false;
  {
    MutexLock lock(mutex_);
    for (const auto& [id, entry] : entries_) {
      if (entry->record.owner != owner) continue;
      unfinished += entry->record.request.attempt_id().empty();
      repeated |= !request.request_id().empty() &&
                  entry->record.request.request_id() == request.request_id();
    }
  }
  if (request.attempt_id().empty() && !repeated && unfinished >= options_.max_uploads_per_owner) {
    return WithReason(
        absl::ResourceExhaustedError(absl::StrCat(
            unfinished, " uploads are unfinished: finish them or wait until they expire")),
        "TOO_MANY_UPLOADS");
  }
  UploadRecord record;
  record.id = NewId("upload");
  record.owner = owner;
  record.request = request;
  record.expire_micros = clock_.WallMicros() + Lifetime(request);
  auto entry =
      std::make_shared<StagedEntry>(record, absl::StrCat(options_.directory, "/", record.id));
  int64_t total = 0;
  // A repeated request has its room already.
  for (const v1::File& file : request.files()) total += repeated ? 0 : file.size();
  THAW_ASSIGN_OR_RETURN(DiskBudget::Reservation reservation,
                        budget_.Reserve(total, ClaimOf(record)));
  for (int i = 0; i < request.files_size(); ++i) {
    const std::string path = entry->PathOf(i);
    THAW_RETURN_IF_ERROR(MakeDirectories(std::filesystem::path(path).parent_path().string()));
    const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("creating ", path));
  }
  THAW_RETURN_IF_ERROR(FsyncTree(entry->directory));
  THAW_RETURN_IF_ERROR(FsyncDirectory(options_.directory));
  {
    MutexLock lock(entry->mutex);
    entry->reservation = std::move(reservation);
  }
  {
    // Before the row: whoever hears of the upload finds it.
    MutexLock lock(mutex_);
    entries_[record.id] = entry;
  }
  const auto stored = store_.Write([&](Transaction& t) { return CreateUpload(t, record); });
  if (stored.ok() && stored->id == record.id) {
    MutexLock lock(entry->mutex);
    return entry->ToUpload();
  }
  Forget(entry);
  if (!stored.ok()) return stored.status();
  return Query(stored->id);
}

absl::StatusOr<std::shared_ptr<StagedEntry>> UploadStaging::Entry(
    const std::string& upload_id) const {
  MutexLock lock(mutex_);
  const auto it = entries_.find(upload_id);
  if (it == entries_.end()) return NoSuchUpload(upload_id);
  return it->second;
}

absl::StatusOr<v1::Upload> UploadStaging::Query(const std::string& upload_id) {
  const auto entry = Entry(upload_id);
  if (!entry.ok()) {
    THAW_ASSIGN_OR_RETURN(const UploadRecord record,
                          store_.Read([&](Reader& r) { return GetUpload(r, "", upload_id); }));
    if (record.artifact.empty()) return entry.status();
    v1::Upload upload;
    upload.set_id(upload_id);
    for (const v1::File& file : record.request.files()) {
      v1::UploadedFile* whole = upload.add_files();
      whole->set_path(file.path());
      whole->set_committed_size(file.size());
    }
    SetExpireTime(record.expire_micros, &upload);
    return upload;
  }
  StagedEntry& staged = **entry;
  MutexLock lock(staged.mutex);
  for (size_t i = 0; i < staged.files.size() && !staged.gone && !staged.sealed; ++i) {
    if (staged.files[i].committed == staged.files[i].written) continue;
    const int file = static_cast<int>(i);
    const UniqueFd fd(open(staged.PathOf(file).c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("opening ", staged.PathOf(file)));
    THAW_RETURN_IF_ERROR(staged.Commit(file, fd.get()));
  }
  return staged.ToUpload();
}

absl::StatusOr<std::unique_ptr<UploadStaging::Writer>> UploadStaging::StartWrite(
    const std::string& upload_id, const std::string& path, int64_t offset) {
  THAW_ASSIGN_OR_RETURN(const auto entry, Entry(upload_id));
  const v1::CreateUploadRequest& request = entry->record.request;
  const int64_t expire_micros = clock_.WallMicros() + Lifetime(request);
  int file = 0;
  while (file < request.files_size() && request.files(file).path() != path) ++file;
  if (file == request.files_size()) {
    return absl::NotFoundError(absl::StrCat(upload_id, " announced no file ", path));
  }
  auto writer = std::make_unique<Writer>();
  bool extend = false;
  {
    MutexLock lock(entry->mutex);
    if (entry->gone) return NoSuchUpload(upload_id);
    if (entry->sealed) return absl::FailedPreconditionError(upload_id + " is being published");
    StagedFile& state = entry->files[file];
    if (offset < 0 || offset > state.written) {
      return WithReason(
          absl::OutOfRangeError(absl::StrCat("offset is ", offset, " but ", path, " has ",
                                             state.committed, " bytes: go on from there")),
          "WRONG_OFFSET");
    }
    writer->fd_ = UniqueFd(open(entry->PathOf(file).c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC));
    if (!writer->fd_.valid() || ftruncate(writer->fd_.get(), offset) != 0) {
      return ErrnoStatus(errno, absl::StrCat("opening ", path));
    }
    writer->file_ = file;
    writer->generation_ = ++state.generation;
    writer->entry_ = entry;
    state.written = offset;
    state.committed = std::min(state.committed, offset);
    if (offset < state.hashed) {
      state.hash = Sha256();
      state.hashed = 0;
    }
    // A commit for each Write would be waste: the row need only be right to half a lifetime.
    extend = expire_micros - entry->expire_micros > Lifetime(request) / 2;
    if (extend) entry->expire_micros = expire_micros;
  }
  if (extend) {
    THAW_RETURN_IF_ERROR(
        store_.Write([&](Transaction& t) { return ExtendUpload(t, upload_id, expire_micros); }));
  }
  return writer;
}

absl::StatusOr<UploadStaging::Publication> UploadStaging::Publish(const std::string& upload_id) {
  THAW_ASSIGN_OR_RETURN(const auto entry, Entry(upload_id));
  entry->publishing.Lock();
  Publication publication(this, entry);
  MutexLock lock(entry->mutex);
  if (entry->gone) return NoSuchUpload(upload_id);
  entry->sealed = true;
  return publication;
}

void UploadStaging::Forget(const std::shared_ptr<StagedEntry>& entry) {
  {
    MutexLock lock(mutex_);
    entries_.erase(entry->record.id);
  }
  MutexLock lock(entry->mutex);
  entry->gone = true;
  entry->reservation = {};
  if (const absl::Status status = RemoveTree(entry->directory); !status.ok()) {
    THAW_LOG(kWarning, "upload_not_removed", {"upload", entry->record.id},
             {"error", status.ToString()});
  }
}

void UploadStaging::RemoveExpired() {
  const int64_t now = clock_.WallMicros();
  const auto records = store_.Read([](Reader& reader) { return AllUploads(reader); });
  if (!records.ok()) return;
  for (const UploadRecord& record : *records) {
    if (record.expire_micros > now) continue;
    if (const auto entry = Entry(record.id); entry.ok()) {
      MutexLock publishing((*entry)->publishing);
      {
        MutexLock lock((*entry)->mutex);
        if ((*entry)->gone || (*entry)->expire_micros > now) continue;
      }
      THAW_LOG(kInfo, "upload_expired", {"upload", record.id});
      Forget(*entry);
    }
    const absl::Status status =
        store_.Write([&](Transaction& t) { return DeleteUpload(t, record.id); });
    if (!status.ok()) {
      THAW_LOG(kWarning, "upload_not_removed", {"upload", record.id}, {"error", status.ToString()});
    }
  }
}

}  // namespace thaw
