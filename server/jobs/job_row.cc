#include "server/jobs/job_row.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "server/jobs/held_artifacts.h"
#include "server/jobs/steering_table.h"

namespace thaw {
namespace {

using v1::Job;

bool Parse(absl::string_view bytes, google::protobuf::Message* message) {
  return message->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

// For how long the live attempt's trainer has worked.
absl::StatusOr<int64_t> RunningMicros(Transaction& transaction, const JobRow& row) {
  if (row.attempt_id.empty()) return 0;
  Statement attempt = transaction.connection().Prepare("SELECT running FROM attempts WHERE id = ?");
  attempt.Text(row.attempt_id);
  const int64_t since = attempt.Step() ? attempt.GetInt(0) : 0;
  THAW_RETURN_IF_ERROR(attempt.status());
  return since == 0 ? 0 : std::max<int64_t>(0, transaction.WallMicros() - since);
}

absl::Status EndAttemptRow(Transaction& transaction, JobRow* row, AttemptState state,
                           const std::string& ending, int64_t running) {
  const int64_t now = transaction.WallMicros();
  row->runtime_used_micros += running;
  if (state == AttemptState::kLost) ++transaction.effects().attempts_lost;
  return transaction.connection()
      .Prepare("UPDATE attempts SET state = ?, running = 0, ended = ?, ending = ? WHERE id = ?")
      .Int(static_cast<int>(state))
      .Int(now)
      .Text(ending)
      .Text(row->attempt_id)
      .Run();
}

int64_t BackoffMicros(const StoreOptions& options, int doublings) {
  if (doublings <= 0) return 0;
  const double seconds = options.retry_backoff_seconds * std::exp2(std::min(doublings, 30) - 1);
  return static_cast<int64_t>(std::min(seconds, options.max_retry_backoff_seconds) * 1e6);
}

}  // namespace

JobRow ReadJobRow(const Statement& row) {
  JobRow job;
  job.number = row.GetInt(0);
  job.life.state = static_cast<Job::State>(row.GetInt(1));
  job.priority = static_cast<int32_t>(row.GetInt(2));
  job.version = row.GetInt(3);
  job.last_sequence = row.GetInt(4);
  job.attempt_id = std::string(row.GetText(5));
  job.checkpoint = std::string(row.GetText(6));
  job.life.crashes = static_cast<int>(row.GetInt(7));
  job.life.out_of_memory = static_cast<int>(row.GetInt(8));
  job.life.losses_in_a_row = static_cast<int>(row.GetInt(9));
  job.life.last_crash_step = row.GetInt(10);
  job.life.micro_step_divisor = static_cast<int>(row.GetInt(11));
  job.create_micros = row.GetInt(12);
  job.not_before_micros = row.GetInt(13);
  job.queued_micros = row.GetInt(14);
  job.runtime_used_micros = row.GetInt(15);
  Parse(row.GetBlob(16), &job.resources);
  Parse(row.GetBlob(17), &job.body);
  Parse(row.GetBlob(18), &job.progress);
  job.life.held = row.GetInt(19) != 0;
  return job;
}

absl::StatusOr<JobRow> LoadJob(Reader& reader, const std::string& owner, const std::string& id) {
  Statement row = reader.connection().Prepare("SELECT " THAW_JOB_COLUMNS " FROM jobs WHERE id = ?");
  row.Text(id);
  if (row.Step()) {
    JobRow job = ReadJobRow(row);
    if (owner.empty() || job.body.owner() == owner) return job;
  }
  THAW_RETURN_IF_ERROR(row.status());
  return absl::NotFoundError(absl::StrCat("there is no job \"", id, "\""));
}

absl::StatusOr<JobSpecs> LoadSpecs(Reader& reader, int64_t number) {
  Statement row =
      reader.connection().Prepare("SELECT spec, resolved_spec FROM specs WHERE job = ?");
  row.Int(number);
  JobSpecs specs;
  if (row.Step() && Parse(row.GetBlob(0), &specs.spec) &&
      Parse(row.GetBlob(1), &specs.resolved_spec)) {
    return specs;
  }
  THAW_RETURN_IF_ERROR(row.status());
  return absl::InternalError(absl::StrCat("job number ", number, " has no readable spec"));
}

Job ToJob(const JobRow& row, const JobSpecs* specs) {
  Job job = row.body;
  job.set_etag(absl::StrCat(absl::Hex(row.version, absl::kZeroPad8)));
  job.set_last_sequence(row.last_sequence);
  if (row.progress.ByteSizeLong() > 0) *job.mutable_progress() = row.progress;
  if (specs != nullptr) {
    *job.mutable_spec() = specs->spec;
    *job.mutable_resolved_spec() = specs->resolved_spec;
  }
  return job;
}

absl::StatusOr<JobView> LoadView(Reader& reader, const JobRow& row) {
  JobView view;
  view.number = row.number;
  view.id = row.body.id();
  view.owner = row.body.owner();
  view.state = row.life.state;
  view.priority = row.priority;
  view.resources = row.resources;
  view.create_micros = row.create_micros;
  view.not_before_micros = row.not_before_micros;
  view.reason = row.body.state_reason();
  view.attempt = row.body.attempt();
  view.attempt_id = row.attempt_id;
  view.worker = row.body.worker();
  if (!row.attempt_id.empty()) {
    THAW_ASSIGN_OR_RETURN(view.steerings, SteeringsOf(reader, row.number, /*waiting=*/true));
  }
  return view;
}

absl::Status InsertJob(Transaction& transaction, JobRow* row, const JobSpecs& specs) {
  Connection& connection = transaction.connection();
  THAW_RETURN_IF_ERROR(
      connection
          .Prepare("INSERT INTO jobs(id, owner, state, priority, version, last_sequence, "
                   "attempt_id, checkpoint, crashes, out_of_memory, losses_in_a_row, "
                   "last_crash_step, micro_step_divisor, created, not_before, queued, "
                   "runtime_used, resources, body, progress) "
                   "VALUES(?, ?, ?, ?, 0, 0, '', '', 0, 0, 0, 0, 1, ?, 0, ?, 0, ?, x'', x'')")
          .Text(row->body.id())
          .Text(row->body.owner())
          .Int(row->life.state)
          .Int(row->priority)
          .Int(row->create_micros)
          .Int(row->queued_micros)
          .Blob(row->resources.SerializeAsString())
          .Run());
  row->number = connection.last_insert_rowid();
  return connection.Prepare("INSERT INTO specs(job, spec, resolved_spec) VALUES(?, ?, ?)")
      .Int(row->number)
      .Blob(specs.spec.SerializeAsString())
      .Blob(specs.resolved_spec.SerializeAsString())
      .Run();
}

absl::Status SaveJob(Transaction& transaction, JobRow* row, bool visible) {
  if (visible) {
    ++row->version;
    *row->body.mutable_update_time() = ToTimestamp(transaction.WallMicros());
    THAW_ASSIGN_OR_RETURN(JobView view, LoadView(transaction, *row));
    transaction.effects().changed.push_back(std::move(view));
  }
  return transaction.connection()
      .Prepare(
          "UPDATE jobs SET state = ?, priority = ?, version = ?, last_sequence = ?, "
          "attempt_id = ?, checkpoint = ?, crashes = ?, out_of_memory = ?, "
          "losses_in_a_row = ?, last_crash_step = ?, micro_step_divisor = ?, "
          "not_before = ?, queued = ?, runtime_used = ?, body = ?, progress = ?, held = ? "
          "WHERE number = ?")
      .Int(row->life.state)
      .Int(row->priority)
      .Int(row->version)
      .Int(row->last_sequence)
      .Text(row->attempt_id)
      .Text(row->checkpoint)
      .Int(row->life.crashes)
      .Int(row->life.out_of_memory)
      .Int(row->life.losses_in_a_row)
      .Int(row->life.last_crash_step)
      .Int(row->life.micro_step_divisor)
      .Int(row->not_before_micros)
      .Int(row->queued_micros)
      .Int(row->runtime_used_micros)
      .Blob(row->body.SerializeAsString())
      .Blob(row->progress.SerializeAsString())
      .Int(row->life.held ? 1 : 0)
      .Int(row->number)
      .Run();
}

absl::Status SaveSpecs(Transaction& transaction, int64_t number, const JobSpecs& specs) {
  return transaction.connection()
      .Prepare("UPDATE specs SET spec = ?, resolved_spec = ? WHERE job = ?")
      .Blob(specs.spec.SerializeAsString())
      .Blob(specs.resolved_spec.SerializeAsString())
      .Int(number)
      .Run();
}

absl::Status AppendEvent(Transaction& transaction, JobRow* row, v1::Event* event) {
  const int64_t now = transaction.WallMicros();
  event->set_sequence(++row->last_sequence);
  if (!event->has_time()) *event->mutable_time() = ToTimestamp(now);
  transaction.effects().appended.push_back(row->body.id());
  const std::string body = event->SerializeAsString();
  if (event->has_metric_points()) {
    return transaction.connection()
        .Prepare(
            "INSERT INTO metric_blobs(job, sequence, created, size, body) "
            "VALUES(?, ?, ?, ?, ?)")
        .Int(row->number)
        .Int(event->sequence())
        .Int(now)
        .Int(static_cast<int64_t>(body.size()))
        .Blob(body)
        .Run();
  }
  return transaction.connection()
      .Prepare("INSERT INTO events(job, sequence, body) VALUES(?, ?, ?)")
      .Int(row->number)
      .Int(event->sequence())
      .Blob(body)
      .Run();
}

absl::Status ApplyInput(Transaction& transaction, JobRow* row, JobInput input,
                        AttemptState attempt_state) {
  THAW_ASSIGN_OR_RETURN(const JobSpecs specs, LoadSpecs(transaction, row->number));
  THAW_ASSIGN_OR_RETURN(const int64_t running, RunningMicros(transaction, *row));
  input.has_checkpoint = !row->checkpoint.empty();
  input.runtime_used_up =
      specs.resolved_spec.has_max_runtime() &&
      row->runtime_used_micros + running >= ToMicros(specs.resolved_spec.max_runtime());
  JobDecision decision = Decide(row->life, specs.resolved_spec.retry_limits(), input);
  if (!decision.status.ok()) {
    if (ReasonOf(decision.status) == "ATTEMPT_STALE") transaction.CountFenced();
    return decision.status;
  }
  if (decision.steps.empty() && decision.life == row->life) return absl::OkStatus();
  const int64_t now = transaction.WallMicros();
  row->life = decision.life;
  for (const JobStep& step : decision.steps) {
    v1::Event event;
    if (HasLiveAttempt(step.from) || HasLiveAttempt(step.to)) {
      event.set_attempt(row->body.attempt());
    }
    v1::StateChange& change = *event.mutable_state_change();
    change.set_from(step.from);
    change.set_to(step.to);
    change.set_reason(step.reason);
    if (step.failure.has_value()) {
      *change.mutable_failure() = *step.failure;
      *row->body.mutable_failure() = *step.failure;
    }
    if (step.to == Job::STARTING) change.set_worker(row->body.worker());
    if (step.to == Job::SUCCEEDED) change.set_result(row->body.result());
    THAW_RETURN_IF_ERROR(AppendEvent(transaction, row, &event));
    transaction.effects().moves.emplace_back(step.from, step.to);
    row->body.set_state(step.to);
    row->body.set_state_reason(step.reason);
    if (step.to == Job::QUEUED) row->queued_micros = now;
    if (step.to == Job::RUNNING) {
      if (!row->body.has_start_time()) *row->body.mutable_start_time() = ToTimestamp(now);
      THAW_RETURN_IF_ERROR(transaction.connection()
                               .Prepare("UPDATE attempts SET running = ? WHERE id = ?")
                               .Int(now)
                               .Text(row->attempt_id)
                               .Run());
    }
    if (IsTerminal(step.to)) {
      row->body.set_done(true);
      *row->body.mutable_end_time() = ToTimestamp(now);
    }
  }
  if (decision.reason.has_value()) row->body.set_state_reason(*decision.reason);
  if (decision.warning.has_value()) {
    v1::Event event;
    event.set_attempt(row->body.attempt());
    *event.mutable_warning() = *decision.warning;
    THAW_RETURN_IF_ERROR(AppendEvent(transaction, row, &event));
  }
  row->not_before_micros =
      decision.backoff > 0 ? now + BackoffMicros(transaction.options(), decision.backoff) : 0;
  if (decision.attempt_over) {
    THAW_RETURN_IF_ERROR(
        EndAttemptRow(transaction, row, attempt_state, row->body.state_reason(), running));
    row->attempt_id.clear();
  }
  if (IsTerminal(row->life.state)) THAW_RETURN_IF_ERROR(ReleaseArtifacts(transaction, row));
  return SaveJob(transaction, row,
                 /*visible=*/!decision.steps.empty() || decision.reason.has_value());
}

google::protobuf::Timestamp ToTimestamp(int64_t micros) {
  google::protobuf::Timestamp timestamp;
  timestamp.set_seconds(micros / 1'000'000);
  timestamp.set_nanos(static_cast<int32_t>(micros % 1'000'000) * 1'000);
  return timestamp;
}

int64_t ToMicros(const google::protobuf::Duration& duration) {
  return duration.seconds() * 1'000'000 + duration.nanos() / 1'000;
}

std::string SerializeSame(const google::protobuf::Message& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&coded);
  coded.Trim();
  return bytes;
}

}  // namespace thaw
