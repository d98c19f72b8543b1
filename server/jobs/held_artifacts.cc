#include "server/jobs/held_artifacts.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/spec/spec.h"
#include "server/jobs/artifact_table.h"

namespace thaw {
namespace {

using v1::Artifact;
using Kinds = std::vector<Artifact::Kind>;

// A training keeps its newest two checkpoints and the best; predictions that never end would keep
// every other one too.
constexpr int64_t kMostHeldCheckpoints = 8;

struct HeldArtifact {
  std::string field;
  std::string artifact;
  Kinds kinds;
};

Kinds KindsFor(const std::string& field) {
  if (field.find("dataset") != std::string::npos) return {Artifact::DATASET};
  return {Artifact::MODEL, Artifact::RESULT};
}

// RESOURCE_EXHAUSTED if predictions hold as many checkpoints of the training as they may, beside
// the one that is wanted.
absl::Status CheckHeldCheckpoints(Reader& reader, const std::string& training,
                                  const std::string& wanted) {
  Statement held = reader.connection().Prepare(
      "SELECT COUNT(*) FROM artifacts WHERE kind = 4 AND job = ? AND id != ? "
      "AND id IN (SELECT artifact FROM artifact_refs)");
  held.Text(training).Text(wanted);
  const int64_t count = held.Step() ? held.GetInt(0) : 0;
  THAW_RETURN_IF_ERROR(held.status());
  if (count < kMostHeldCheckpoints) return absl::OkStatus();
  return WithReason(
      absl::ResourceExhaustedError(absl::StrCat(
          "unfinished predictions hold ", count, " other checkpoints of ", training,
          ", which is the most: resume or cancel those that are paused, or wait until one ends")),
      "CHECKPOINTS_HELD");
}

absl::StatusOr<std::vector<HeldArtifact>> HeldBy(Reader& reader, const std::string& visible_owner,
                                                 const v1::JobSpec& spec) {
  std::vector<HeldArtifact> held;
  for (const SpecReference& reference : ReferencesOf(spec)) {
    held.push_back({reference.field, reference.id, KindsFor(reference.field)});
  }
  const std::string training = TrainingBehindOf(spec);
  if (training.empty()) return held;
  const auto gone = [&] {
    return WithReason(
        absl::AbortedError(absl::StrCat(spec.prediction().checkpoint(), " of ", training,
                                        " has just been replaced: submit the prediction again")),
        "CHECKPOINT_GONE");
  };
  THAW_ASSIGN_OR_RETURN(const JobRow row, LoadJob(reader, visible_owner, training));
  if (row.checkpoint.empty()) return gone();
  if (!GetArtifact(reader, visible_owner, spec.prediction().checkpoint()).ok()) return gone();
  THAW_RETURN_IF_ERROR(CheckHeldCheckpoints(reader, training, spec.prediction().checkpoint()));
  THAW_ASSIGN_OR_RETURN(const JobSpecs specs, LoadSpecs(reader, row.number));
  const std::string field = "spec.prediction.model";
  held.push_back({field, spec.prediction().checkpoint(), {Artifact::CHECKPOINT}});
  for (const SpecReference& reference : ReferencesOf(specs.resolved_spec)) {
    held.push_back({field, reference.id, KindsFor(reference.field)});
  }
  return held;
}

}  // namespace

std::string TrainingBehindOf(const v1::JobSpec& resolved_spec) {
  const v1::Prediction& prediction = resolved_spec.prediction();
  return prediction.checkpoint().empty() || !IsJobId(prediction.model()) ? "" : prediction.model();
}

absl::Status HoldArtifacts(Transaction& transaction, const std::string& visible_owner,
                           const v1::JobSpec& resolved_spec, int64_t number) {
  THAW_ASSIGN_OR_RETURN(const std::vector<HeldArtifact> held,
                        HeldBy(transaction, visible_owner, resolved_spec));
  std::vector<FieldViolation> violations;
  for (const HeldArtifact& one : held) {
    const absl::StatusOr<Artifact> artifact = GetArtifact(transaction, visible_owner, one.artifact);
    if (absl::IsNotFound(artifact.status())) {
      violations.push_back({one.field, absl::StrCat("there is no artifact \"", one.artifact,
                                                    "\": import it first")});
      continue;
    }
    THAW_RETURN_IF_ERROR(artifact.status());
    if (std::find(one.kinds.begin(), one.kinds.end(), artifact->kind()) == one.kinds.end()) {
      violations.push_back(
          {one.field,
           absl::StrCat("\"", one.artifact, "\" is a ", Artifact::Kind_Name(artifact->kind()),
                        ", not a ", Artifact::Kind_Name(one.kinds.front()))});
    } else if (artifact->state() != Artifact::READY) {
      violations.push_back(
          {one.field,
           absl::StrCat("\"", one.artifact, "\" is ", Artifact::State_Name(artifact->state()),
                        artifact->state() == Artifact::VALIDATING
                            ? ": wait until GetArtifact shows it READY"
                            : absl::StrCat(": ", artifact->state_reason()))});
    } else {
      THAW_RETURN_IF_ERROR(
          transaction.connection()
              .Prepare("INSERT OR IGNORE INTO artifact_refs(artifact, job) VALUES(?, ?)")
              .Text(one.artifact)
              .Int(number)
              .Run());
    }
  }
  return violations.empty() ? absl::OkStatus() : InvalidFields(violations);
}

absl::Status ReleaseArtifacts(Transaction& transaction, JobRow* row) {
  Connection& connection = transaction.connection();
  std::vector<std::pair<std::string, bool>> trainings;  // whether they have ended
  {
    Statement held = connection.Prepare(
        "SELECT jobs.id, jobs.state > 6 FROM artifact_refs "
        "JOIN artifacts ON artifacts.id = artifact_refs.artifact "
        "JOIN jobs ON jobs.id = artifacts.job "
        "WHERE artifact_refs.job = ? AND artifacts.kind = 4");
    held.Int(row->number);
    while (held.Step()) trainings.emplace_back(held.GetText(0), held.GetInt(1) != 0);
    THAW_RETURN_IF_ERROR(held.status());
  }
  THAW_RETURN_IF_ERROR(
      connection.Prepare("DELETE FROM artifact_refs WHERE job = ?").Int(row->number).Run());
  row->checkpoint.clear();
  THAW_RETURN_IF_ERROR(PruneCheckpoints(transaction, row->body.id(), /*ended=*/true));
  for (const auto& [training, ended] : trainings) {
    THAW_RETURN_IF_ERROR(PruneCheckpoints(transaction, training, ended));
  }
  return absl::OkStatus();
}

absl::Status PruneCheckpoints(Transaction& transaction, const std::string& job, bool ended) {
  Statement removed = transaction.connection().Prepare(
      "DELETE FROM artifacts WHERE kind = 4 AND job = ?1 "
      "AND id NOT IN (SELECT artifact FROM artifact_refs) "
      "AND (?2 OR number NOT IN (SELECT number FROM artifacts WHERE kind = 4 AND job = ?1 "
      "ORDER BY number DESC LIMIT 2) "
      "AND number NOT IN (SELECT number FROM artifacts WHERE kind = 4 AND job = ?1 AND best = 1 "
      "ORDER BY number DESC LIMIT 1)) RETURNING id");
  removed.Text(job).Int(ended ? 1 : 0);
  while (removed.Step()) {
    transaction.effects().removed_artifacts.emplace_back(removed.GetText(0));
  }
  return removed.status();
}

}  // namespace thaw
