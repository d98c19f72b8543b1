// Bytes on their way in: uploads/<id>/ holds what has come of the files that a row of the store
// announces.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/base/sha256.h"
#include "common/base/unique_fd.h"
#include "server/artifacts/disk_budget.h"
#include "server/jobs/records.h"
#include "server/jobs/store.h"
#include "thaw/v1/artifact_service.pb.h"

namespace thaw {

struct StagingOptions {
  std::string directory;                           // .../uploads
  int64_t expiry_micros = 24LL * 3600'000'000;     // without a Write, of an upload by a user
  int64_t attempt_expiry_micros = 3600'000'000LL;  // ... of one by an attempt
  int max_uploads_per_owner = 64;                  // more are RESOURCE_EXHAUSTED
  // May fill the disk with announced uploads: whoever runs the server can see to that alone.
  std::string owner_without_share = "admin";
};

// One upload as it is held in memory; made and locked by UploadStaging.
struct StagedEntry;

// Thread-safe. Survives the process: Load finds what an earlier one left.
class UploadStaging {
 public:
  // Appends to one file. One thread at a time.
  class Writer {
   public:
    ~Writer();
    // ABORTED once a newer Writer of this file exists or the upload is being published;
    // OUT_OF_RANGE for more bytes than were announced.
    absl::Status Append(absl::string_view bytes);
    // Makes what was appended safe on disk and gives the file's committed size.
    absl::StatusOr<int64_t> Commit();

   private:
    friend class UploadStaging;
    std::shared_ptr<StagedEntry> entry_;
    int file_ = 0;            // index into the announced files
    int64_t generation_ = 0;  // of the file when this writer began
    UniqueFd fd_;
  };

  // The only one that may publish the upload, which takes no bytes while this lives.
  class Publication {
   public:
    Publication(Publication&&) noexcept = default;
    ~Publication();
    const UploadRecord& upload() const;
    const std::string& directory() const;  // holds the announced files
    // Every announced byte is here and has the announced hash. FAILED_PRECONDITION names what is
    // missing, or a file with another hash, which is emptied so that it can be sent again.
    absl::Status Verify();
    // The files have moved away for good.
    void Finish();

   private:
    friend class UploadStaging;
    // Of what the file holds: known since it came, or read again.
    absl::StatusOr<FileDigest> Digest(int file);
    Publication(UploadStaging* staging, std::shared_ptr<StagedEntry> entry)
        : staging_(staging), entry_(std::move(entry)) {}
    UploadStaging* staging_;
    std::shared_ptr<StagedEntry> entry_;
  };

  // All three outlive it.
  UploadStaging(StagingOptions options, Store& store, DiskBudget& budget, const Clock& clock);

  // Once, before any other call.
  absl::Status Load();

  // Announces an upload that ValidateUpload has passed. The same request_id of the same owner gives
  // the same upload; ALREADY_EXISTS if it announces something else. RESOURCE_EXHAUSTED when the
  // disk or its owner's share of it cannot hold it.
  absl::StatusOr<v1::Upload> Create(const std::string& owner,
                                    const v1::CreateUploadRequest& request);
  // Bytes safely on disk. Everything of a finished upload is.
  absl::StatusOr<v1::Upload> Query(const std::string& upload_id);
  // `offset` is at most the bytes that are here; those behind it are dropped. Ends an older writer
  // of the file. OUT_OF_RANGE names the committed size.
  absl::StatusOr<std::unique_ptr<Writer>> StartWrite(const std::string& upload_id,
                                                     const std::string& path, int64_t offset);
  // Waits while another thread publishes it, then NOT_FOUND if that went well.
  absl::StatusOr<Publication> Publish(const std::string& upload_id);

  // Removes uploads whose time has passed.
  void RemoveExpired();

 private:
  absl::StatusOr<std::shared_ptr<StagedEntry>> Entry(const std::string& upload_id) const;
  std::shared_ptr<StagedEntry> LoadEntry(const UploadRecord& record);
  void Forget(const std::shared_ptr<StagedEntry>& entry);
  int64_t Lifetime(const v1::CreateUploadRequest& request) const;
  DiskBudget::Claim ClaimOf(const UploadRecord& upload) const;

  const StagingOptions options_;
  Store& store_;
  DiskBudget& budget_;
  const Clock& clock_;
  // One Create of an owner at a time: by a hash of the owner. Before any other lock.
  std::array<Mutex, 16> creating_;
  mutable Mutex mutex_;
  std::map<std::string, std::shared_ptr<StagedEntry>> entries_ THAW_GUARDED_BY(mutex_);
};

}  // namespace thaw
