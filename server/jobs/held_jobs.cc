#include "server/jobs/held_jobs.h"

#include <algorithm>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "server/jobs/artifact_table.h"
#include "server/jobs/job_row.h"

namespace thaw {
namespace {

using v1::Job;

constexpr double kCopiesInCheckpoint = 4;

// States 2 … 5: STARTING, RUNNING, PAUSING, PAUSED.
#define THAW_JOBS_WHERE(condition) \
  "SELECT " THAW_JOB_COLUMNS " FROM jobs WHERE " condition " ORDER BY number"
constexpr char kPausing[] = THAW_JOBS_WHERE("state = 4");
constexpr char kAtWork[] = THAW_JOBS_WHERE("state IN (2, 3)");
constexpr char kQueued[] = THAW_JOBS_WHERE("state = 1 AND checkpoint != ''");
constexpr char kHeld[] = THAW_JOBS_WHERE("state = 5 AND held = 1");

absl::StatusOr<int64_t> NewestCheckpointBytes(Reader& reader, const JobRow& row) {
  if (row.checkpoint.empty()) return 0;
  const absl::StatusOr<v1::Artifact> checkpoint = GetArtifact(reader, "", row.checkpoint);
  if (absl::IsNotFound(checkpoint.status())) return 0;
  THAW_RETURN_IF_ERROR(checkpoint.status());
  return checkpoint->size_bytes();
}

absl::StatusOr<int64_t> CheckpointBytes(Reader& reader, const JobRow& row) {
  THAW_ASSIGN_OR_RETURN(const JobSpecs specs, LoadSpecs(reader, row.number));
  if (!specs.resolved_spec.has_training()) return 0;
  THAW_ASSIGN_OR_RETURN(const int64_t newest, NewestCheckpointBytes(reader, row));
  const absl::StatusOr<v1::Artifact> model =
      GetArtifact(reader, "", specs.resolved_spec.base_model());
  if (absl::IsNotFound(model.status())) return newest;
  THAW_RETURN_IF_ERROR(model.status());
  // By its numbers: whatever else lies in its directory is never in a checkpoint. What a worker
  // reports is taken for a share only if it is one.
  const double bytes = static_cast<double>(model->model().parameters()) * sizeof(float);
  const double share = row.progress.trainable_share();
  const double trained = share > 0 ? bytes * std::min(share, 1.0) : 0;
  return std::max(newest, static_cast<int64_t>(std::min(kCopiesInCheckpoint * trained, 0x1p60)));
}

absl::StatusOr<std::vector<JobRow>> RowsOf(Reader& reader, const char* query) {
  std::vector<JobRow> found;
  Statement rows = reader.connection().Prepare(query);
  while (rows.Step()) found.push_back(ReadJobRow(rows));
  THAW_RETURN_IF_ERROR(rows.status());
  return found;
}

absl::Status AddNeeds(Reader& reader, const char* query, DiskNeed::Standing standing,
                      std::vector<DiskNeed>* needs) {
  constexpr int64_t kMost = int64_t{1} << 50;  // no disk is larger, and no sum of them overflows
  THAW_ASSIGN_OR_RETURN(const std::vector<JobRow> jobs, RowsOf(reader, query));
  for (const JobRow& row : jobs) {
    THAW_ASSIGN_OR_RETURN(const int64_t bytes, CheckpointBytes(reader, row));
    needs->push_back({row.number, standing, std::min(bytes, kMost)});
  }
  return absl::OkStatus();
}

absl::Status Apply(Transaction& transaction, const char* query, const std::set<int64_t>& jobs,
                   JobInput::Kind kind) {
  THAW_ASSIGN_OR_RETURN(std::vector<JobRow> rows, RowsOf(transaction, query));
  for (JobRow& row : rows) {
    if (jobs.count(row.number) == 0) continue;
    JobInput input;
    input.kind = kind;
    THAW_RETURN_IF_ERROR(ApplyInput(transaction, &row, input));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<DiskNeed>> GetDiskNeeds(Reader& reader) {
  std::vector<DiskNeed> needs, held;
  THAW_RETURN_IF_ERROR(AddNeeds(reader, kPausing, DiskNeed::kPausing, &needs));
  THAW_RETURN_IF_ERROR(AddNeeds(reader, kAtWork, DiskNeed::kAtWork, &needs));
  THAW_RETURN_IF_ERROR(AddNeeds(reader, kHeld, DiskNeed::kHeld, &held));
  // Only those held wait for them, and finding them among all that is queued takes a while.
  if (!held.empty()) {
    THAW_RETURN_IF_ERROR(AddNeeds(reader, kQueued, DiskNeed::kQueued, &needs));
  }
  needs.insert(needs.end(), held.begin(), held.end());
  return needs;
}

absl::Status HoldJobs(Transaction& transaction, const std::set<int64_t>& jobs) {
  return Apply(transaction, kAtWork, jobs, JobInput::kHold);
}

absl::Status ReleaseJobs(Transaction& transaction, const std::set<int64_t>& jobs) {
  return Apply(transaction, kHeld, jobs, JobInput::kRelease);
}

}  // namespace thaw
