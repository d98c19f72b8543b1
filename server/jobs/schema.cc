#include "server/jobs/schema.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace thaw {
namespace {

// Jobs are rewritten with every report, so what is large and rarely changes (the specs) is kept
// apart. Events of metric points have a row in metric_blobs instead of events; the sequence runs
// through both.
constexpr char kTables[] = R"sql(
CREATE TABLE jobs(
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  owner TEXT NOT NULL,
  state INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  version INTEGER NOT NULL,
  last_sequence INTEGER NOT NULL,
  attempt_id TEXT NOT NULL,
  checkpoint TEXT NOT NULL,
  crashes INTEGER NOT NULL,
  out_of_memory INTEGER NOT NULL,
  losses_in_a_row INTEGER NOT NULL,
  last_crash_step INTEGER NOT NULL,
  micro_step_divisor INTEGER NOT NULL,
  created INTEGER NOT NULL,
  not_before INTEGER NOT NULL,
  queued INTEGER NOT NULL,
  runtime_used INTEGER NOT NULL,
  held INTEGER NOT NULL DEFAULT 0,
  resources BLOB NOT NULL,
  body BLOB NOT NULL,
  progress BLOB NOT NULL) STRICT;
CREATE INDEX jobs_by_owner ON jobs(owner, number);
CREATE INDEX jobs_by_state ON jobs(state);
CREATE TABLE specs(
  job INTEGER PRIMARY KEY REFERENCES jobs(number),
  spec BLOB NOT NULL,
  resolved_spec BLOB NOT NULL) STRICT;
CREATE TABLE attempts(
  id TEXT PRIMARY KEY,
  job INTEGER NOT NULL REFERENCES jobs(number),
  number INTEGER NOT NULL,
  worker TEXT NOT NULL,
  state INTEGER NOT NULL,
  device_kind INTEGER NOT NULL,
  incarnation TEXT NOT NULL DEFAULT '',
  accepted_number INTEGER NOT NULL DEFAULT 0,
  acknowledged INTEGER NOT NULL DEFAULT 0,
  start_step INTEGER NOT NULL,
  begin_sequence INTEGER NOT NULL,
  offered INTEGER NOT NULL,
  running INTEGER NOT NULL DEFAULT 0,
  ended INTEGER NOT NULL DEFAULT 0,
  ending TEXT NOT NULL DEFAULT '',
  UNIQUE(job, number)) STRICT, WITHOUT ROWID;
CREATE TABLE events(
  job INTEGER NOT NULL REFERENCES jobs(number),
  sequence INTEGER NOT NULL,
  body BLOB NOT NULL,
  PRIMARY KEY(job, sequence)) STRICT, WITHOUT ROWID;
CREATE TABLE metric_blobs(
  job INTEGER NOT NULL REFERENCES jobs(number),
  sequence INTEGER NOT NULL,
  created INTEGER NOT NULL,
  thinned INTEGER NOT NULL DEFAULT 0,
  size INTEGER NOT NULL,
  body BLOB NOT NULL,
  UNIQUE(job, sequence)) STRICT;
CREATE INDEX metric_blobs_by_age ON metric_blobs(thinned, created, size);
CREATE TABLE request_ids(
  owner TEXT NOT NULL,
  call TEXT NOT NULL,
  request_id TEXT NOT NULL,
  body_sha256 TEXT NOT NULL,
  target TEXT NOT NULL,
  PRIMARY KEY(owner, call, request_id)) STRICT, WITHOUT ROWID;
CREATE TABLE steerings(
  job INTEGER NOT NULL REFERENCES jobs(number),
  number INTEGER NOT NULL,
  request_id TEXT NOT NULL,
  applied INTEGER NOT NULL DEFAULT 0,
  body BLOB NOT NULL,
  PRIMARY KEY(job, number),
  UNIQUE(job, request_id)) STRICT, WITHOUT ROWID;
CREATE TABLE artifacts(
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  owner TEXT NOT NULL,
  kind INTEGER NOT NULL,
  state INTEGER NOT NULL,
  job TEXT NOT NULL,
  step INTEGER NOT NULL DEFAULT 0,
  phase INTEGER NOT NULL DEFAULT 0,
  best INTEGER NOT NULL DEFAULT 0,
  base TEXT NOT NULL DEFAULT '',
  body BLOB NOT NULL) STRICT;
CREATE INDEX artifacts_by_base ON artifacts(base) WHERE base != '';
CREATE INDEX artifacts_by_owner ON artifacts(owner, number);
CREATE INDEX checkpoints_by_job ON artifacts(job, number) WHERE kind = 4;
CREATE TABLE artifact_refs(
  artifact TEXT NOT NULL REFERENCES artifacts(id),
  job INTEGER NOT NULL REFERENCES jobs(number),
  PRIMARY KEY(artifact, job)) STRICT, WITHOUT ROWID;
CREATE INDEX artifact_refs_by_job ON artifact_refs(job);
CREATE TABLE uploads(
  id TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  expires INTEGER NOT NULL,
  artifact TEXT NOT NULL,
  request BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE workers(
  name TEXT PRIMARY KEY,
  incarnation TEXT NOT NULL,
  retired TEXT NOT NULL,
  draining INTEGER NOT NULL,
  seen INTEGER NOT NULL,
  offer BLOB NOT NULL) STRICT, WITHOUT ROWID;
)sql";

// Step i brings a file of version i + 1 up to the next one.
constexpr const char* kUpgrades[] = {
    "ALTER TABLE jobs ADD COLUMN held INTEGER NOT NULL DEFAULT 0;",
    "ALTER TABLE artifacts ADD COLUMN base TEXT NOT NULL DEFAULT '';"
    "CREATE INDEX artifacts_by_base ON artifacts(base) WHERE base != '';",
    "CREATE TABLE steerings(job INTEGER NOT NULL REFERENCES jobs(number), number INTEGER NOT NULL, "
    "request_id TEXT NOT NULL, applied INTEGER NOT NULL DEFAULT 0, body BLOB NOT NULL, "
    "PRIMARY KEY(job, number), UNIQUE(job, request_id)) STRICT, WITHOUT ROWID;"};
static_assert(std::size(kUpgrades) == kSchemaVersion - 1);

}  // namespace

absl::Status PrepareSchema(Connection& connection, const std::string& path) {
  const int application = std::atoi(connection.Pragma("application_id").c_str());
  const int version = std::atoi(connection.Pragma("user_version").c_str());
  const bool empty = std::atoi(connection.Pragma("schema_version").c_str()) == 0;
  if (empty && application == 0 && version == 0) {
    return connection.Execute(absl::StrCat("BEGIN IMMEDIATE;", kTables,
                                           "PRAGMA application_id=", kApplicationId,
                                           ";PRAGMA user_version=", kSchemaVersion, ";COMMIT"));
  }
  if (application != kApplicationId) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " belongs to another program (application id ", application,
                     "): choose another data_dir"));
  }
  if (version > kSchemaVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " was written by a newer Thaw (schema ", version, "; this one knows ", kSchemaVersion,
        "): start that version, or restore a backup from before the upgrade"));
  }
  const std::string check = connection.Pragma("quick_check(1)");
  if (check != "ok") {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is damaged (", check, "): restore it from a backup"));
  }
  if (version == kSchemaVersion) return absl::OkStatus();
  std::string steps;
  for (int from = std::max(version, 1); from < kSchemaVersion; ++from) steps += kUpgrades[from - 1];
  return connection.Execute(
      absl::StrCat("BEGIN IMMEDIATE;", steps, "PRAGMA user_version=", kSchemaVersion, ";COMMIT"));
}

}  // namespace thaw
