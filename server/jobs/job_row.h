// A job's row in memory, and the one way in which a job changes: an input through the state
// machine, its events beside it. Only for the files of this folder.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/message.h"
#include "google/protobuf/timestamp.pb.h"
#include "server/jobs/database.h"
#include "server/jobs/records.h"
#include "server/jobs/state_machine.h"
#include "server/jobs/store.h"

namespace thaw {

struct JobRow {
  int64_t number = 0;
  v1::Job body;  // without specs, progress, etag, last_sequence
  v1::Progress progress;
  v1::Resources resources;
  JobLife life;
  int32_t priority = 0;
  int64_t version = 0;
  int64_t last_sequence = 0;
  std::string attempt_id;  // live attempt
  std::string checkpoint;  // the newest, to go on from
  int64_t create_micros = 0;
  int64_t not_before_micros = 0;
  int64_t queued_micros = 0;        // since when it is QUEUED
  int64_t runtime_used_micros = 0;  // of attempts that are over
};

struct JobSpecs {
  v1::JobSpec spec;
  v1::JobSpec resolved_spec;
};

// NOT_FOUND "job <id> …" for one that is not there or not the owner's (empty: anybody's).
absl::StatusOr<JobRow> LoadJob(Reader& reader, const std::string& owner, const std::string& id);
absl::StatusOr<JobSpecs> LoadSpecs(Reader& reader, int64_t number);

// What ReadJobRow reads: a statement that selects these stands on a row.
#define THAW_JOB_COLUMNS                                                                       \
  "number, state, priority, version, last_sequence, attempt_id, checkpoint, crashes, "         \
  "out_of_memory, losses_in_a_row, last_crash_step, micro_step_divisor, created, not_before, " \
  "queued, runtime_used, resources, body, progress, held"
JobRow ReadJobRow(const Statement& row);

// As the API shows it; `specs` may be null.
v1::Job ToJob(const JobRow& row, const JobSpecs* specs);
absl::StatusOr<JobView> LoadView(Reader& reader, const JobRow& row);

// Inserts the row; sets its number.
absl::Status InsertJob(Transaction& transaction, JobRow* row, const JobSpecs& specs);
// `visible`: something that a user or the scheduler sees has changed, so the etag does too.
absl::Status SaveJob(Transaction& transaction, JobRow* row, bool visible);
absl::Status SaveSpecs(Transaction& transaction, int64_t number, const JobSpecs& specs);

// Gives the event the next sequence and stores it; time is now if unset. The row must be saved
// afterwards.
absl::Status AppendEvent(Transaction& transaction, JobRow* row, v1::Event* event);

// Fills in what `input` says of runtime and checkpoint, decides, appends the events of every step,
// keeps the row's fields and the live attempt's row true to the state, and saves. `attempt_state`:
// what becomes of the live attempt if the input ends it.
absl::Status ApplyInput(Transaction& transaction, JobRow* row, JobInput input,
                        AttemptState attempt_state = AttemptState::kEnded);

google::protobuf::Timestamp ToTimestamp(int64_t micros);
int64_t ToMicros(const google::protobuf::Duration& duration);
// The same bytes for equal messages, maps included.
std::string SerializeSame(const google::protobuf::Message& message);

}  // namespace thaw
