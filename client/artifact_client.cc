#include "client/artifact_client.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/caller.h"
#include "common/base/files.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/dataset/dataset_columns.h"
#include "common/delta/delta.h"
#include "common/rpc/artifact_transfer.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "common/spec/artifact_digest.h"
#include "thaw/v1/artifact_service.grpc.pb.h"

namespace thaw {
namespace {

using v1::ArtifactService;

constexpr int kPageSize = 200;
constexpr double kLongestPollWait = 1;
constexpr double kReportSeconds = 600;
constexpr size_t kMostNamesTold = 10;

bool BelongsToModel(absl::string_view path) {
  for (const char* suffix :
       {".json", ".safetensors", ".txt", ".model", ".jinja", "LICENSE", "README.md"}) {
    if (absl::EndsWith(path, suffix)) return path.find('/') == path.npos;
  }
  return false;
}

// Whether importing `request` again would only make another of the same.
bool IsSame(const v1::Artifact& artifact, const v1::CreateUploadRequest& request,
            const std::string& digest, const v1::DatasetColumns& columns) {
  if (artifact.state() != v1::Artifact::READY || artifact.digest() != digest ||
      artifact.display_name() != request.display_name() ||
      artifact.base_model() != request.base_model()) {
    return false;
  }
  if (request.kind() != v1::Artifact::DATASET) return true;
  return SameColumns(columns, artifact.dataset());
}

TransferOptions OptionsFor(const Caller& caller, const TransferProgress& progress) {
  TransferOptions options;
  options.prepare = [&caller](grpc::ClientContext* context) {
    AddAccessToken(caller.access_token(), context);
  };
  options.progress = progress;
  options.wait = [&caller](double seconds) { WaitToCallAgain(caller.channel().get(), seconds); };
  return options;
}

}  // namespace

struct ArtifactClient::Stubs {
  explicit Stubs(const std::shared_ptr<grpc::Channel>& channel)
      : artifacts(ArtifactService::NewStub(channel)) {}
  std::unique_ptr<ArtifactService::Stub> artifacts;
};

absl::StatusOr<std::vector<LocalFile>> FilesOfModel(const std::string& directory,
                                                    std::vector<std::string>* skipped) {
  THAW_ASSIGN_OR_RETURN(const std::vector<FileEntry> entries, ListFiles(directory));
  std::vector<LocalFile> files;
  bool config = false;
  for (const FileEntry& entry : entries) {
    if (BelongsToModel(entry.path) && IsSafeRelativePath(entry.path)) {
      files.push_back({absl::StrCat(directory, "/", entry.path), entry.path});
      config = config || entry.path == "config.json" || entry.path == "adapter_config.json";
    } else if (skipped != nullptr) {
      skipped->push_back(entry.path);
    }
  }
  if (config) return files;
  return absl::InvalidArgumentError(
      absl::StrCat(directory,
                   " holds no config.json; give a Hugging Face directory (config.json, "
                   "model.safetensors, tokenizer.json) or an adapter (adapter_config.json)"));
}

ArtifactClient::ArtifactClient(std::shared_ptr<Caller> caller)
    : caller_(std::move(caller)), stubs_(std::make_unique<Stubs>(caller_->channel())) {}

ArtifactClient::~ArtifactClient() = default;

absl::StatusOr<v1::Artifact> ArtifactClient::Import(const ImportRequest& request,
                                                    const TransferProgress& progress) {
  v1::CreateUploadRequest upload;
  upload.set_kind(request.kind);
  upload.set_display_name(request.display_name);
  upload.set_base_model(request.base_model);
  if (request.kind == v1::Artifact::DATASET) *upload.mutable_columns() = request.columns;
  std::vector<std::string> local_paths;
  for (const LocalFile& file : request.files) {
    THAW_ASSIGN_OR_RETURN(*upload.add_files(), DescribeFile(file.local_path, file.path));
    local_paths.push_back(file.local_path);
  }
  const std::string digest = DigestOfFiles(upload.files());
  v1::DatasetColumns columns = request.columns;
  if (request.kind == v1::Artifact::DATASET && request.files.size() == 1) {
    // What the server will find.
    columns.set_format(FormatOf(columns.format(), request.files[0].path));
    THAW_ASSIGN_OR_RETURN(columns, ResolveColumns(request.files[0].local_path, columns));
  }
  THAW_ASSIGN_OR_RETURN(const std::vector<v1::Artifact> artifacts, ListArtifacts(request.kind));
  for (const v1::Artifact& artifact : artifacts) {
    if (IsSame(artifact, upload, digest, columns)) return GetArtifact(artifact.id());
  }
  absl::StatusOr<v1::Artifact> artifact = UploadArtifact(
      stubs_->artifacts.get(), upload, local_paths, {}, OptionsFor(*caller_, progress));
  if (!artifact.ok()) return caller_->Explain(artifact.status());
  return WaitUntilRead(*std::move(artifact));
}

absl::StatusOr<v1::Artifact> ArtifactClient::WaitUntilRead(v1::Artifact artifact) {
  Backoff backoff(kLongestPollWait);
  while (artifact.state() == v1::Artifact::VALIDATING) {
    std::this_thread::sleep_for(std::chrono::duration<double>(backoff.Next()));
    THAW_ASSIGN_OR_RETURN(artifact, GetArtifact(artifact.id()));
  }
  return artifact;
}

absl::StatusOr<v1::Artifact> ArtifactClient::GetArtifact(const std::string& id) {
  v1::GetArtifactRequest request;
  request.set_id(id);
  return caller_->Call(stubs_->artifacts.get(), &ArtifactService::Stub::GetArtifact, request);
}

absl::StatusOr<std::vector<v1::Artifact>> ArtifactClient::ListArtifacts(v1::Artifact::Kind kind) {
  v1::ListArtifactsRequest request;
  request.set_kind(kind);
  request.set_page_size(kPageSize);
  std::vector<v1::Artifact> artifacts;
  while (true) {
    THAW_ASSIGN_OR_RETURN(
        const v1::ListArtifactsResponse page,
        caller_->Call(stubs_->artifacts.get(), &ArtifactService::Stub::ListArtifacts, request));
    artifacts.insert(artifacts.end(), page.artifacts().begin(), page.artifacts().end());
    if (page.next_page_token().empty()) return artifacts;
    request.set_page_token(page.next_page_token());
  }
}

absl::Status ArtifactClient::DeleteArtifact(const std::string& id) {
  v1::DeleteArtifactRequest request;
  request.set_id(id);
  return caller_
      ->Call(stubs_->artifacts.get(), &ArtifactService::Stub::DeleteArtifact, request,
             Repeat::kNever)
      .status();
}

absl::StatusOr<v1::Artifact> ArtifactClient::Find(v1::Artifact::Kind kind,
                                                  const std::string& id_or_name) {
  const std::string word = absl::AsciiStrToLower(v1::Artifact::Kind_Name(kind));
  if (absl::StartsWith(id_or_name, absl::StrCat(word, "-"))) {
    const absl::StatusOr<v1::Artifact> artifact = GetArtifact(id_or_name);
    if (!absl::IsNotFound(artifact.status())) return artifact;
  }
  THAW_ASSIGN_OR_RETURN(const std::vector<v1::Artifact> artifacts, ListArtifacts(kind));
  std::vector<std::string> names;
  for (const v1::Artifact& artifact : artifacts) {
    if (artifact.display_name() == id_or_name || artifact.id() == id_or_name) return artifact;
    if (names.size() < kMostNamesTold) names.push_back(artifact.display_name());
  }
  return absl::NotFoundError(absl::StrCat(
      "no ", word, " has the id or name \"", id_or_name, "\"; ",
      names.empty() ? absl::StrCat("there are none yet: thaw ", word, " import brings one")
                    : absl::StrCat("there are: ", absl::StrJoin(names, ", "))));
}

absl::Status ArtifactClient::GetDatasetReport(
    const std::string& id, const std::function<void(const v1::DatasetIssue&)>& on_issue) {
  const std::unique_ptr<grpc::ClientContext> context = caller_->NewContext(kReportSeconds);
  v1::GetDatasetReportRequest request;
  request.set_id(id);
  const auto reader = stubs_->artifacts->GetDatasetReport(context.get(), request);
  v1::DatasetIssue issue;
  while (reader->Read(&issue)) on_issue(issue);
  return caller_->Explain(FromGrpcStatus(reader->Finish()));
}

absl::Status ArtifactClient::Fetch(const v1::Artifact& artifact, const std::string& directory,
                                   const TransferProgress& progress) {
  return caller_->Explain(DownloadArtifact(stubs_->artifacts.get(), artifact, directory,
                                           OptionsFor(*caller_, progress)));
}

absl::Status ArtifactClient::FetchFull(const v1::Artifact& artifact, const std::string& directory,
                                       const TransferProgress& progress) {
  if (artifact.form() == v1::Artifact::ADAPTER) {
    return absl::FailedPreconditionError(absl::StrCat(
        artifact.id(), " is an adapter on ", artifact.base_model(),
        ": fetch it as it is, or train with output MERGED for a model with all weights"));
  }
  if (artifact.form() != v1::Artifact::DELTA) return Fetch(artifact, directory, progress);
  // Before anything is fetched: the rebuilt weights take this name.
  for (const v1::File& file : artifact.files()) {
    if (file.path() == "model.safetensors") {
      return absl::DataLossError(
          absl::StrCat(artifact.id(), " holds other weights beside a delta"));
    }
  }
  const std::string parts = directory + "/.parts";
  const std::string delta_dir = parts + "/delta", base_dir = parts + "/base";
  THAW_ASSIGN_OR_RETURN(const v1::Artifact base, GetArtifact(artifact.base_model()));
  THAW_RETURN_IF_ERROR(MakeDirectories(parts));
  const int64_t total = artifact.size_bytes() + base.size_bytes();
  const auto progress_from = [&](int64_t before) -> TransferProgress {
    if (!progress) return nullptr;
    return [&, before](int64_t done, int64_t) { progress(before + done, total); };
  };
  THAW_RETURN_IF_ERROR(Fetch(artifact, delta_dir, progress_from(0)));
  THAW_RETURN_IF_ERROR(Fetch(base, base_dir, progress_from(artifact.size_bytes())));
  THAW_RETURN_IF_ERROR(RebuildWeights(delta_dir, base_dir, directory + "/model.safetensors"));
  for (const v1::File& file : artifact.files()) {
    if (file.path() == kDeltaFile || file.path() == kDeltaWeightsFile) continue;
    std::error_code error;
    const std::filesystem::path target = directory + "/" + file.path();
    std::filesystem::create_directories(target.parent_path(), error);
    std::filesystem::rename(delta_dir + "/" + file.path(), target, error);
    if (error) return absl::InternalError(absl::StrCat(target.string(), ": ", error.message()));
  }
  return RemoveTree(parts);
}

absl::StatusOr<std::string> ArtifactClient::ReadFile(const v1::Artifact& artifact,
                                                     const std::string& path, int64_t limit) {
  const auto file = std::find_if(artifact.files().begin(), artifact.files().end(),
                                 [&](const v1::File& one) { return one.path() == path; });
  if (file == artifact.files().end()) {
    return absl::NotFoundError(absl::StrCat(artifact.id(), " holds no ", path));
  }
  if (file->size() > limit) {
    return absl::ResourceExhaustedError(absl::StrCat(path, " of ", artifact.id(), " has ",
                                                     file->size(), " bytes; fetch it instead"));
  }
  v1::ReadRequest request;
  request.set_id(artifact.id());
  request.set_path(path);
  std::string bytes;
  THAW_RETURN_IF_ERROR(caller_->Call(Repeat::kAllowed, [&](grpc::ClientContext* context) {
    bytes.clear();
    const auto reader = stubs_->artifacts->Read(context, request);
    v1::ReadResponse response;
    while (reader->Read(&response) && static_cast<int64_t>(bytes.size()) <= limit) {
      bytes += response.data();
    }
    if (static_cast<int64_t>(bytes.size()) > limit) context->TryCancel();
    return reader->Finish();
  }));
  if (Sha256Hex(bytes) != file->sha256()) {
    return absl::DataLossError(
        absl::StrCat(path, " of ", artifact.id(), " came damaged; try again"));
  }
  return bytes;
}

}  // namespace thaw
