// The directories that jobs read and leave:
// - <directory>/{models,datasets,results,checkpoints}/<id>/…: published with a manifest.json
//   (docs/manifest_format.md), never changed;
// - <directory>/reports/<dataset>.jsonl: every bad line of a dataset;
// - <directory>/uploads/<upload>/…: on their way in;
// - <directory>/trash/…: on their way out.
//
// Promises: nobody sees half of an artifact: every size and hash is checked, files and directories
// are fsynced, the directory is renamed into place, and only then one transaction makes the row
// (and, for what an attempt leaves, checks its fence). A directory without a row is moved back into
// its upload or swept at the next start. A file is hashed again before its first use in this
// process, so bit rot is found before it is handed out.
//
// Thread-safe; calls block on the disk. One thread of its own reads datasets through and empties
// the trash.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/files.h"
#include "common/base/mutex.h"
#include "common/base/unique_fd.h"
#include "server/artifacts/disk_budget.h"
#include "server/artifacts/upload_staging.h"
#include "server/jobs/store.h"
#include "thaw/v1/artifact.pb.h"
#include "thaw/v1/artifact_service.pb.h"

namespace thaw {

struct ArtifactStoreOptions {
  std::string directory;
  // Never promised to uploads: what checkpoints of running jobs and the store's log may need.
  int64_t min_free_bytes = int64_t{1} << 30;
  // See DiskBudget.
  double owner_upload_share = 0.5;
  // What the disk that holds `directory` has free; tests say something else.
  std::function<absl::StatusOr<int64_t>(const std::string&)> free_bytes = FreeBytes;
  // Between looks for expired uploads.
  double housekeeping_seconds = 60;
};

// A file of an artifact, open for reading; its name stays valid after the artifact is deleted.
struct OpenArtifactFile {
  UniqueFd fd;
  int64_t size = 0;  // bytes
};

class ArtifactStore {
 public:
  // Sweeps what an earlier process left half done, then begins. Both outlive it.
  static absl::StatusOr<std::unique_ptr<ArtifactStore>> Open(ArtifactStoreOptions options,
                                                             Store& store, const Clock& clock);
  // Ends the background work; what is left of it is done after the next start.
  ~ArtifactStore();

  UploadStaging& staging() { return staging_; }
  DiskBudget& budget() { return budget_; }

  // See ArtifactService.FinishUpload. A dataset comes back VALIDATING.
  absl::StatusOr<v1::Artifact> FinishUpload(const v1::FinishUploadRequest& request);

  // One of `artifact`'s files. DATA_LOSS if its bytes are not the published ones any more.
  absl::StatusOr<OpenArtifactFile> OpenFile(const v1::Artifact& artifact, const std::string& path);

  // Where ReadDatasetReport finds a dataset's report.
  std::string ReportPath(const std::string& dataset) const;

  // Bytes of all published artifacts by kind name; counted once a housekeeping round.
  std::map<std::string, int64_t> BytesByKind() const;

  // Returns when the background work that was asked for so far is done.
  void WaitUntilIdle();

 private:
  ArtifactStore(ArtifactStoreOptions options, Store& store, const Clock& clock);
  absl::Status Recover();
  // Moves `id`'s directory into the trash if it is there.
  absl::Status Discard(const std::string& id);
  absl::StatusOr<v1::Artifact> Describe(const UploadRecord& upload,
                                        const v1::FinishUploadRequest& request,
                                        const std::string& directory) const;
  absl::StatusOr<v1::Artifact> Commit(const UploadRecord& upload, const v1::Artifact& artifact,
                                      const v1::FinishUploadRequest& request);
  void Validate(v1::Artifact dataset);
  void CountBytes();
  void Work();

  const ArtifactStoreOptions options_;
  Store& store_;
  const Clock& clock_;
  DiskBudget budget_;
  UploadStaging staging_;

  // Held while a model is summarized: a header made for it takes hundreds of megabytes.
  mutable Mutex summarizing_;
  mutable Mutex mutex_;
  CondVar changed_;
  bool stopping_ THAW_GUARDED_BY(mutex_) = false;
  bool busy_ THAW_GUARDED_BY(mutex_) = false;  // the thread is at a piece of work
  std::deque<v1::Artifact> to_validate_ THAW_GUARDED_BY(mutex_);
  std::deque<std::string> to_remove_ THAW_GUARDED_BY(mutex_);  // artifact ids
  std::map<std::string, int64_t> bytes_by_kind_ THAW_GUARDED_BY(mutex_);
  std::set<std::pair<std::string, std::string>> verified_ THAW_GUARDED_BY(mutex_);  // id, path

  Subscription removals_;
  std::thread thread_;
};

}  // namespace thaw
