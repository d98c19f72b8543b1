#include "server/artifacts/artifact_store.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/id.h"
#include "common/base/log.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/dataset/dataset_columns.h"
#include "common/spec/artifact_digest.h"
#include "google/protobuf/util/json_util.h"
#include "server/artifacts/based_model.h"
#include "server/artifacts/dataset_check.h"
#include "server/artifacts/model_summary.h"
#include "server/artifacts/upload_rules.h"
#include "server/jobs/artifact_table.h"
#include "server/jobs/attempt_table.h"
#include "server/jobs/job_row.h"
#include "thaw/internal/manifest.pb.h"

namespace thaw {
namespace {

constexpr int kManifestFormatVersion = 1;
constexpr v1::Artifact::Kind kKinds[] = {v1::Artifact::MODEL, v1::Artifact::DATASET,
                                         v1::Artifact::RESULT, v1::Artifact::CHECKPOINT};

// Fresh because upload ids are; the same for every try to finish one upload.
std::string ArtifactIdOf(const UploadRecord& upload) {
  return absl::StrCat(KindName(upload.request.kind()), upload.id.substr(upload.id.rfind('-')));
}

std::string DirectoryOf(const std::string& root, absl::string_view artifact_id) {
  return absl::StrCat(root, "/", artifact_id.substr(0, artifact_id.rfind('-')), "s/", artifact_id);
}

std::vector<std::string> NamesIn(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    names.push_back(entry.path().filename().string());
  }
  return names;
}

// What an attempt leaves is known by its job.
absl::Status NameAfterJob(Reader& reader, const UploadRecord& upload, v1::Artifact* artifact) {
  THAW_ASSIGN_OR_RETURN(const AttemptRecord attempt,
                        GetAttempt(reader, upload.request.attempt_id()));
  THAW_ASSIGN_OR_RETURN(const JobRow row, LoadJob(reader, "", attempt.job));
  THAW_ASSIGN_OR_RETURN(const JobSpecs specs, LoadSpecs(reader, row.number));
  artifact->set_job(attempt.job);
  artifact->set_owner(attempt.owner);
  artifact->set_display_name(specs.spec.display_name());
  return absl::OkStatus();
}

absl::Status WriteManifest(const std::string& directory, const v1::Artifact& artifact) {
  internal::Manifest manifest;
  manifest.set_format_version(kManifestFormatVersion);
  *manifest.mutable_artifact() = artifact;
  google::protobuf::util::JsonPrintOptions format;
  format.add_whitespace = true;
  format.preserve_proto_field_names = true;
  std::string json;
  if (!google::protobuf::util::MessageToJsonString(manifest, &json, format).ok()) {
    return absl::InternalError("a manifest cannot be written as JSON");
  }
  return WriteFileAtomically(directory + "/manifest.json", json);
}

}  // namespace

ArtifactStore::ArtifactStore(ArtifactStoreOptions options, Store& store, const Clock& clock)
    : options_(std::move(options)),
      store_(store),
      clock_(clock),
      budget_({.free_bytes = [this] { return options_.free_bytes(options_.directory); },
               .min_free_bytes = options_.min_free_bytes,
               .owner_share = options_.owner_upload_share}),
      staging_({.directory = options_.directory + "/uploads"}, store, budget_, clock) {}

absl::StatusOr<std::unique_ptr<ArtifactStore>> ArtifactStore::Open(ArtifactStoreOptions options,
                                                                   Store& store,
                                                                   const Clock& clock) {
  auto artifacts =
      std::unique_ptr<ArtifactStore>(new ArtifactStore(std::move(options), store, clock));
  THAW_RETURN_IF_ERROR(artifacts->Recover());
  ArtifactStore* self = artifacts.get();
  artifacts->removals_ = store.ObserveRemovedArtifacts([self](const std::vector<std::string>& ids) {
    MutexLock lock(self->mutex_);
    self->to_remove_.insert(self->to_remove_.end(), ids.begin(), ids.end());
    self->changed_.SignalAll();
  });
  artifacts->thread_ = std::thread([self] { self->Work(); });
  return artifacts;
}

ArtifactStore::~ArtifactStore() {
  removals_.Reset();
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.SignalAll();
  }
  if (thread_.joinable()) thread_.join();
}

absl::Status ArtifactStore::Recover() {
  const std::string trash = options_.directory + "/trash";
  for (const v1::Artifact::Kind kind : kKinds) {
    THAW_RETURN_IF_ERROR(
        MakeDirectories(absl::StrCat(options_.directory, "/", KindName(kind), "s")));
  }
  THAW_RETURN_IF_ERROR(MakeDirectories(options_.directory + "/reports"));
  THAW_RETURN_IF_ERROR(MakeDirectories(trash));
  THAW_RETURN_IF_ERROR(RemoveTree(trash));
  THAW_RETURN_IF_ERROR(MakeDirectories(trash));

  THAW_ASSIGN_OR_RETURN(const auto ids,
                        store_.Read([](Reader& reader) { return AllArtifactIds(reader); }));
  THAW_ASSIGN_OR_RETURN(const auto uploads,
                        store_.Read([](Reader& reader) { return AllUploads(reader); }));
  const std::set<std::string> known(ids.begin(), ids.end());
  for (const UploadRecord& upload : uploads) {
    // The process ended between the rename and the transaction: as if it had not renamed.
    const std::string id = ArtifactIdOf(upload);
    const std::string published = DirectoryOf(options_.directory, id);
    const std::string staged = absl::StrCat(options_.directory, "/uploads/", upload.id);
    if (!upload.artifact.empty() || known.count(id) > 0 || !Exists(published)) continue;
    THAW_LOG(kInfo, "publication_undone", {"upload", upload.id}, {"artifact", id});
    THAW_RETURN_IF_ERROR(RemoveTree(published + "/manifest.json"));
    THAW_RETURN_IF_ERROR(RemoveTree(staged));
    THAW_RETURN_IF_ERROR(RenameWithoutReplacing(published, staged));
  }
  for (const v1::Artifact::Kind kind : kKinds) {
    for (const std::string& id :
         NamesIn(absl::StrCat(options_.directory, "/", KindName(kind), "s"))) {
      if (known.count(id) == 0) THAW_RETURN_IF_ERROR(Discard(id));
    }
  }
  THAW_RETURN_IF_ERROR(staging_.Load());
  THAW_ASSIGN_OR_RETURN(auto validating,
                        store_.Read([](Reader& reader) { return ValidatingArtifacts(reader); }));
  CountBytes();
  MutexLock lock(mutex_);
  to_validate_.assign(validating.begin(), validating.end());
  return absl::OkStatus();
}

absl::StatusOr<v1::Artifact> ArtifactStore::Describe(const UploadRecord& upload,
                                                     const v1::FinishUploadRequest& request,
                                                     const std::string& directory) const {
  v1::Artifact artifact;
  artifact.set_id(ArtifactIdOf(upload));
  artifact.set_kind(upload.request.kind());
  artifact.set_state(v1::Artifact::READY);
  artifact.set_owner(upload.owner);
  artifact.set_display_name(upload.request.display_name());
  if (!upload.request.attempt_id().empty()) {
    THAW_RETURN_IF_ERROR(
        store_.Read([&](Reader& reader) { return NameAfterJob(reader, upload, &artifact); }));
    *artifact.mutable_metrics() = request.result().metrics();
  }
  *artifact.mutable_files() = upload.request.files();
  std::sort(artifact.mutable_files()->begin(), artifact.mutable_files()->end(),
            [](const v1::File& a, const v1::File& b) { return a.path() < b.path(); });
  int64_t size = 0;
  for (const v1::File& file : artifact.files()) size += file.size();
  artifact.set_size_bytes(size);
  artifact.set_digest(DigestOfFiles(artifact.files()));
  const int64_t now = clock_.WallMicros();
  artifact.mutable_create_time()->set_seconds(now / 1'000'000);
  artifact.mutable_create_time()->set_nanos(static_cast<int32_t>(now % 1'000'000) * 1000);
  if (artifact.kind() == v1::Artifact::DATASET) {
    artifact.set_state(v1::Artifact::VALIDATING);
    // What is not given is found when the file is read.
    CopyColumns(upload.request.columns(), artifact.mutable_dataset());
    return artifact;
  }
  artifact.set_form(FormOf(artifact));
  if (artifact.form() == v1::Artifact::FORM_UNSPECIFIED) return artifact;
  if (artifact.form() == v1::Artifact::FULL) {
    MutexLock lock(summarizing_);
    THAW_ASSIGN_OR_RETURN(*artifact.mutable_model(), SummarizeModel(directory, artifact));
    return artifact;
  }
  THAW_ASSIGN_OR_RETURN(const v1::Artifact base,
                        store_.Read([&](Reader& reader) { return BaseOfUpload(reader, upload); }));
  MutexLock lock(summarizing_);
  THAW_RETURN_IF_ERROR(DescribeOnBase(directory, base, &artifact));
  return artifact;
}

absl::StatusOr<v1::Artifact> ArtifactStore::Commit(const UploadRecord& upload,
                                                   const v1::Artifact& artifact,
                                                   const v1::FinishUploadRequest& request) {
  return store_.Write([&](Transaction& t) -> absl::StatusOr<v1::Artifact> {
    const std::string& attempt = upload.request.attempt_id();
    absl::StatusOr<v1::Artifact> row;
    if (artifact.kind() == v1::Artifact::CHECKPOINT) {
      row = CommitCheckpoint(t, attempt,
                             {.artifact = artifact,
                              .step = request.checkpoint().step(),
                              .phase = request.checkpoint().phase(),
                              .best = request.checkpoint().best()});
    } else if (artifact.kind() == v1::Artifact::RESULT) {
      const auto& metrics = request.result().metrics();
      row = CommitResult(t, attempt, artifact, {metrics.begin(), metrics.end()});
    } else {
      row = InsertArtifact(t, artifact);
    }
    if (row.ok()) THAW_RETURN_IF_ERROR(SetUploadArtifact(t, upload.id, artifact.id()));
    return row;
  });
}

absl::StatusOr<v1::Artifact> ArtifactStore::FinishUpload(const v1::FinishUploadRequest& request) {
  const std::string& upload_id = request.upload_id();
  auto publication = staging_.Publish(upload_id);
  if (!publication.ok()) {
    THAW_ASSIGN_OR_RETURN(const UploadRecord upload,
                          store_.Read([&](Reader& r) { return GetUpload(r, "", upload_id); }));
    if (upload.artifact.empty()) return publication.status();
    return store_.Read([&](Reader& r) { return GetArtifact(r, "", upload.artifact); });
  }
  const UploadRecord& upload = publication->upload();
  const v1::Artifact::Kind kind = upload.request.kind();
  if (request.has_checkpoint() != (kind == v1::Artifact::CHECKPOINT) ||
      request.has_result() != (kind == v1::Artifact::RESULT)) {
    return InvalidField("outcome", absl::StrCat("does not fit an upload of kind ", KindName(kind)));
  }
  THAW_RETURN_IF_ERROR(publication->Verify());
  THAW_ASSIGN_OR_RETURN(const v1::Artifact artifact,
                        Describe(upload, request, publication->directory()));
  THAW_RETURN_IF_ERROR(WriteManifest(publication->directory(), artifact));
  THAW_RETURN_IF_ERROR(FsyncTree(publication->directory()));
  const std::string published = DirectoryOf(options_.directory, artifact.id());
  THAW_RETURN_IF_ERROR(RenameWithoutReplacing(publication->directory(), published));
  auto committed = Commit(upload, artifact, request);
  if (!committed.ok()) {
    THAW_RETURN_IF_ERROR(RemoveTree(published + "/manifest.json"));
    THAW_RETURN_IF_ERROR(RenameWithoutReplacing(published, publication->directory()));
    return committed;
  }
  publication->Finish();
  MutexLock lock(mutex_);
  for (const v1::File& file : artifact.files()) verified_.emplace(artifact.id(), file.path());
  bytes_by_kind_[std::string(KindName(kind))] += artifact.size_bytes();
  if (committed->state() == v1::Artifact::VALIDATING) {
    to_validate_.push_back(*committed);
    changed_.SignalAll();
  }
  return committed;
}

absl::StatusOr<OpenArtifactFile> ArtifactStore::OpenFile(const v1::Artifact& artifact,
                                                         const std::string& path) {
  const auto file = std::find_if(artifact.files().begin(), artifact.files().end(),
                                 [&](const v1::File& f) { return f.path() == path; });
  if (file == artifact.files().end()) {
    return absl::NotFoundError(absl::StrCat(artifact.id(), " has no file ", path));
  }
  const std::string full = absl::StrCat(DirectoryOf(options_.directory, artifact.id()), "/", path);
  bool verified = false;
  {
    MutexLock lock(mutex_);
    verified = verified_.count({artifact.id(), path}) > 0;
  }
  OpenArtifactFile open_file{.fd = UniqueFd(open(full.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC)),
                             .size = file->size()};
  if (!verified && open_file.fd.valid()) {
    const auto digest = DigestFile(full);
    verified = digest.ok() && digest->sha256 == file->sha256() && digest->size == file->size();
  }
  if (!open_file.fd.valid() || !verified) {
    const std::string incident =
        LogIncident("artifact_damaged", absl::StrCat(full, " is not what was published"));
    return WithReason(
        absl::DataLossError(absl::StrCat(path, " of ", artifact.id(),
                                         " is damaged on the server's disk (incident ", incident,
                                         "): upload it again, or ask the operator to restore it")),
        "ARTIFACT_DAMAGED");
  }
  MutexLock lock(mutex_);
  verified_.emplace(artifact.id(), path);
  return open_file;
}

std::string ArtifactStore::ReportPath(const std::string& dataset) const {
  return absl::StrCat(options_.directory, "/reports/", dataset, ".jsonl");
}

std::map<std::string, int64_t> ArtifactStore::BytesByKind() const {
  MutexLock lock(mutex_);
  return bytes_by_kind_;
}

absl::Status ArtifactStore::Discard(const std::string& id) {
  const std::string directory = DirectoryOf(options_.directory, id);
  {
    MutexLock lock(mutex_);
    verified_.erase(verified_.lower_bound({id, ""}), verified_.lower_bound({id + '\x01', ""}));
  }
  THAW_RETURN_IF_ERROR(RemoveTree(ReportPath(id)));
  if (!Exists(directory)) return absl::OkStatus();
  const std::string trash = absl::StrCat(options_.directory, "/trash/", id);
  THAW_RETURN_IF_ERROR(RemoveTree(trash));
  THAW_RETURN_IF_ERROR(RenameWithoutReplacing(directory, trash));
  THAW_LOG(kInfo, "artifact_removed", {"artifact", id});
  return RemoveTree(trash);
}

void ArtifactStore::Validate(v1::Artifact dataset) {
  const absl::Status status = CheckDataset(DirectoryOf(options_.directory, dataset.id()),
                                           ReportPath(dataset.id()), &dataset);
  if (!status.ok()) {
    const std::string incident = LogIncident("dataset_check", status.ToString());
    dataset.set_state(v1::Artifact::REJECTED);
    dataset.set_state_reason(absl::StrCat("the server could not read it through (incident ",
                                          incident, "): upload it again, or ask the operator"));
  }
  const absl::Status stored =
      store_.Write([&](Transaction& t) { return SetArtifactState(t, dataset); });
  THAW_LOG(kInfo, "dataset_checked", {"dataset", dataset.id()}, {"rows", dataset.dataset().rows()},
           {"bad_lines", dataset.dataset().bad_lines()}, {"stored", stored.ToString()});
}

void ArtifactStore::CountBytes() {
  std::map<std::string, int64_t> bytes;
  for (const v1::Artifact::Kind kind : kKinds) {
    const std::string name(KindName(kind));
    bytes[name] = 0;
    std::error_code error;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(
             absl::StrCat(options_.directory, "/", name, "s"), error)) {
      std::error_code gone;
      if (entry.is_regular_file(gone)) {
        bytes[name] += static_cast<int64_t>(entry.file_size(gone));
      }
    }
  }
  MutexLock lock(mutex_);
  bytes_by_kind_ = std::move(bytes);
}

void ArtifactStore::WaitUntilIdle() {
  MutexLock lock(mutex_);
  while (busy_ || !to_validate_.empty() || !to_remove_.empty()) changed_.Wait(mutex_);
}

void ArtifactStore::Work() {
  while (true) {
    v1::Artifact dataset;
    std::string removed;
    {
      MutexLock lock(mutex_);
      busy_ = false;
      changed_.SignalAll();
      if (!stopping_ && to_validate_.empty() && to_remove_.empty()) {
        changed_.WaitFor(mutex_, options_.housekeeping_seconds);
      }
      if (stopping_) return;
      if (!to_remove_.empty()) {
        removed = std::move(to_remove_.front());
        to_remove_.pop_front();
      } else if (!to_validate_.empty()) {
        dataset = std::move(to_validate_.front());
        to_validate_.pop_front();
      }
      busy_ = true;
    }
    if (!removed.empty()) {
      if (const absl::Status status = Discard(removed); !status.ok()) {
        THAW_LOG(kWarning, "artifact_not_removed", {"artifact", removed},
                 {"error", status.ToString()});
      }
    } else if (!dataset.id().empty()) {
      Validate(std::move(dataset));
    } else {
      staging_.RemoveExpired();
      CountBytes();
    }
  }
}

}  // namespace thaw
