#include "server/jobs/artifact_table.h"

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "server/jobs/database.h"
#include "server/jobs/job_row.h"
#include "server/jobs/request_ids.h"

namespace thaw {
namespace {

using v1::Artifact;

constexpr char kCreateUploadCall[] = "CreateUpload";
constexpr size_t kMaxPageBytes = 3 << 20;  // an answer fits into one message

absl::Status NoArtifact(const std::string& id) {
  return absl::NotFoundError(absl::StrCat("there is no artifact \"", id, "\""));
}

Artifact ParseArtifact(absl::string_view body) {
  Artifact artifact;
  artifact.ParseFromArray(body.data(), static_cast<int>(body.size()));
  return artifact;
}

UploadRecord ReadUpload(const Statement& row) {
  UploadRecord upload;
  upload.id = std::string(row.GetText(0));
  upload.owner = std::string(row.GetText(1));
  upload.expire_micros = row.GetInt(2);
  upload.artifact = std::string(row.GetText(3));
  const absl::string_view request = row.GetBlob(4);
  upload.request.ParseFromArray(request.data(), static_cast<int>(request.size()));
  return upload;
}

}  // namespace

absl::StatusOr<Artifact> InsertArtifact(Transaction& transaction, const Artifact& artifact) {
  Artifact row = artifact;
  if (!row.has_create_time()) *row.mutable_create_time() = ToTimestamp(transaction.WallMicros());
  if (!row.base_model().empty() && !GetArtifact(transaction, "", row.base_model()).ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat(row.base_model(), ", which ", row.id(), " builds on, has been deleted"));
  }
  THAW_RETURN_IF_ERROR(
      Annotate(transaction.connection()
                   .Prepare("INSERT INTO artifacts(id, owner, kind, state, job, base, body) "
                            "VALUES(?, ?, ?, ?, ?, ?, ?)")
                   .Text(row.id())
                   .Text(row.owner())
                   .Int(row.kind())
                   .Int(row.state())
                   .Text(row.job())
                   .Text(row.base_model())
                   .Blob(row.SerializeAsString())
                   .Run(),
               row.id()));
  return row;
}

absl::Status SetArtifactState(Transaction& transaction, const Artifact& artifact) {
  THAW_ASSIGN_OR_RETURN(Artifact row, GetArtifact(transaction, "", artifact.id()));
  row.set_state(artifact.state());
  row.set_state_reason(artifact.state_reason());
  row.clear_dataset();
  if (artifact.has_dataset()) *row.mutable_dataset() = artifact.dataset();
  row.clear_model();
  if (artifact.has_model()) *row.mutable_model() = artifact.model();
  return transaction.connection()
      .Prepare("UPDATE artifacts SET state = ?, body = ? WHERE id = ?")
      .Int(row.state())
      .Blob(row.SerializeAsString())
      .Text(row.id())
      .Run();
}

absl::StatusOr<Artifact> GetArtifact(Reader& reader, const std::string& owner,
                                     const std::string& id) {
  Statement row = reader.connection().Prepare("SELECT body FROM artifacts WHERE id = ?");
  row.Text(id);
  if (row.Step()) {
    Artifact artifact = ParseArtifact(row.GetBlob(0));
    if (owner.empty() || artifact.owner() == owner) return artifact;
  }
  THAW_RETURN_IF_ERROR(row.status());
  return NoArtifact(id);
}

absl::StatusOr<Page<Artifact>> ListArtifacts(Reader& reader, const std::string& owner,
                                             Artifact::Kind kind, int page_size,
                                             const std::string& page_token) {
  const std::string filter = absl::StrCat("artifacts\n", owner, "\n", kind);
  THAW_ASSIGN_OR_RETURN(const int64_t before, ParsePageToken(page_token, filter));
  Page<Artifact> page;
  int64_t last = 0;
  size_t bytes = 0;
  Statement rows = reader.connection().Prepare(
      "SELECT number, body FROM artifacts WHERE number < ?1 AND (?2 = '' OR owner = ?2) "
      "AND (?3 = 0 OR kind = ?3) AND kind != 4 ORDER BY number DESC LIMIT ?4");
  rows.Int(before).Text(owner).Int(kind).Int(page_size + 1);
  while (rows.Step()) {
    Artifact artifact = ParseArtifact(rows.GetBlob(1));
    artifact.clear_files();
    bytes += artifact.ByteSizeLong();
    if (static_cast<int>(page.items.size()) == page_size ||
        (bytes > kMaxPageBytes && !page.items.empty())) {
      page.next_page_token = MakePageToken(last, filter);
      break;
    }
    last = rows.GetInt(0);
    page.items.push_back(std::move(artifact));
  }
  THAW_RETURN_IF_ERROR(rows.status());
  return page;
}

absl::Status DeleteArtifact(Transaction& transaction, const std::string& owner,
                            const std::string& id) {
  THAW_RETURN_IF_ERROR(GetArtifact(transaction, owner, id).status());
  {
    Statement user = transaction.connection().Prepare(
        "SELECT jobs.id FROM artifact_refs JOIN jobs ON jobs.number = artifact_refs.job "
        "WHERE artifact_refs.artifact = ?1 UNION ALL "
        "SELECT id FROM jobs WHERE checkpoint = ?1 AND state <= 6 LIMIT 1");
    user.Text(id);
    if (user.Step()) {
      return WithReason(
          absl::FailedPreconditionError(absl::StrCat(id, " is needed by ", user.GetText(0),
                                                     ": wait until it has ended, or cancel it")),
          "ARTIFACT_IN_USE");
    }
    THAW_RETURN_IF_ERROR(user.status());
  }
  {
    Statement builds_on =
        transaction.connection().Prepare("SELECT id, owner FROM artifacts WHERE base = ? LIMIT 1");
    builds_on.Text(id);
    if (builds_on.Step()) {
      const bool visible = owner.empty() || builds_on.GetText(1) == owner;
      return WithReason(
          absl::FailedPreconditionError(absl::StrCat(
              visible ? builds_on.GetText(0) : "another owner's model", " builds on ", id,
              ": delete that first (thaw fetch --as full gives it with all its weights)")),
          "ARTIFACT_IN_USE");
    }
    THAW_RETURN_IF_ERROR(builds_on.status());
  }
  THAW_RETURN_IF_ERROR(
      transaction.connection().Prepare("DELETE FROM artifacts WHERE id = ?").Text(id).Run());
  transaction.effects().removed_artifacts.push_back(id);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> AllArtifactIds(Reader& reader) {
  std::vector<std::string> ids;
  Statement rows = reader.connection().Prepare("SELECT id FROM artifacts ORDER BY number");
  while (rows.Step()) ids.emplace_back(rows.GetText(0));
  THAW_RETURN_IF_ERROR(rows.status());
  return ids;
}

absl::StatusOr<std::vector<Artifact>> ValidatingArtifacts(Reader& reader) {
  std::vector<Artifact> artifacts;
  Statement rows =
      reader.connection().Prepare("SELECT body FROM artifacts WHERE state = 1 ORDER BY number");
  while (rows.Step()) artifacts.push_back(ParseArtifact(rows.GetBlob(0)));
  THAW_RETURN_IF_ERROR(rows.status());
  return artifacts;
}

absl::StatusOr<UploadRecord> CreateUpload(Transaction& transaction, const UploadRecord& upload) {
  const std::string& request_id = upload.request.request_id();
  THAW_ASSIGN_OR_RETURN(
      const std::string earlier,
      FindRequest(transaction, upload.owner, kCreateUploadCall, request_id, upload.request));
  if (!earlier.empty()) {
    absl::StatusOr<UploadRecord> found = GetUpload(transaction, upload.owner, earlier);
    if (!absl::IsNotFound(found.status())) return found;
    // It expired: the request begins again.
    THAW_RETURN_IF_ERROR(
        transaction.connection()
            .Prepare("DELETE FROM request_ids WHERE owner = ? AND call = ? AND request_id = ?")
            .Text(upload.owner)
            .Text(kCreateUploadCall)
            .Text(request_id)
            .Run());
  }
  THAW_RETURN_IF_ERROR(
      transaction.connection()
          .Prepare(
              "INSERT INTO uploads(id, owner, expires, artifact, request) VALUES(?, ?, ?, ?, ?)")
          .Text(upload.id)
          .Text(upload.owner)
          .Int(upload.expire_micros)
          .Text(upload.artifact)
          .Blob(upload.request.SerializeAsString())
          .Run());
  THAW_RETURN_IF_ERROR(PutRequest(transaction, upload.owner, kCreateUploadCall, request_id,
                                  upload.request, upload.id));
  return upload;
}

absl::StatusOr<UploadRecord> GetUpload(Reader& reader, const std::string& owner,
                                       const std::string& id) {
  Statement row = reader.connection().Prepare(
      "SELECT id, owner, expires, artifact, request FROM uploads WHERE id = ?");
  row.Text(id);
  if (row.Step()) {
    UploadRecord upload = ReadUpload(row);
    if (owner.empty() || upload.owner == owner) return upload;
  }
  THAW_RETURN_IF_ERROR(row.status());
  return absl::NotFoundError(
      absl::StrCat("there is no upload \"", id, "\": it may have expired; begin again"));
}

absl::Status ExtendUpload(Transaction& transaction, const std::string& id, int64_t expire_micros) {
  return transaction.connection()
      .Prepare("UPDATE uploads SET expires = ? WHERE id = ?")
      .Int(expire_micros)
      .Text(id)
      .Run();
}

absl::Status SetUploadArtifact(Transaction& transaction, const std::string& id,
                               const std::string& artifact) {
  return transaction.connection()
      .Prepare("UPDATE uploads SET artifact = ? WHERE id = ?")
      .Text(artifact)
      .Text(id)
      .Run();
}

absl::Status DeleteUpload(Transaction& transaction, const std::string& id) {
  return transaction.connection().Prepare("DELETE FROM uploads WHERE id = ?").Text(id).Run();
}

absl::StatusOr<std::vector<UploadRecord>> AllUploads(Reader& reader) {
  std::vector<UploadRecord> uploads;
  Statement rows =
      reader.connection().Prepare("SELECT id, owner, expires, artifact, request FROM uploads");
  while (rows.Step()) uploads.push_back(ReadUpload(rows));
  THAW_RETURN_IF_ERROR(rows.status());
  return uploads;
}

}  // namespace thaw
