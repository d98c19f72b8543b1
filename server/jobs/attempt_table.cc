#include "server/jobs/attempt_table.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/spec/planned_training.h"
#include "server/jobs/artifact_table.h"
#include "server/jobs/held_artifacts.h"
#include "server/jobs/job_row.h"
#include "server/jobs/steering_table.h"

namespace thaw {
namespace {

using v1::Artifact;
using v1::Job;

#define THAW_ATTEMPT_COLUMNS                                                             \
  "attempts.id, jobs.id, jobs.owner, attempts.number, attempts.worker, attempts.state, " \
  "attempts.incarnation, attempts.accepted_number, attempts.acknowledged, jobs.state, "  \
  "jobs.attempt_id FROM attempts JOIN jobs ON jobs.number = attempts.job "

AttemptRecord ReadAttempt(const Statement& row) {
  AttemptRecord attempt;
  attempt.id = std::string(row.GetText(0));
  attempt.job = std::string(row.GetText(1));
  attempt.owner = std::string(row.GetText(2));
  attempt.number = static_cast<int32_t>(row.GetInt(3));
  attempt.worker = std::string(row.GetText(4));
  attempt.state = static_cast<AttemptState>(row.GetInt(5));
  attempt.incarnation = std::string(row.GetText(6));
  attempt.accepted_number = row.GetInt(7);
  attempt.acknowledged = row.GetInt(8);
  attempt.job_state = static_cast<Job::State>(row.GetInt(9));
  return attempt;
}

absl::Status Stale(Reader& reader, const std::string& attempt_id) {
  reader.CountFenced();
  return WithReason(absl::FailedPreconditionError(absl::StrCat(
                        "attempt ", attempt_id, " is not its job's live one any more")),
                    "ATTEMPT_STALE");
}

// Attempt and job, with the fence checked.
struct LiveJob {
  AttemptRecord attempt;
  JobRow row;
};
absl::StatusOr<LiveJob> LoadLive(Reader& reader, const std::string& attempt_id) {
  THAW_ASSIGN_OR_RETURN(AttemptRecord attempt, GetLiveAttempt(reader, attempt_id));
  THAW_ASSIGN_OR_RETURN(JobRow row, LoadJob(reader, "", attempt.job));
  return LiveJob{std::move(attempt), std::move(row)};
}

absl::StatusOr<int64_t> CheckpointStep(Reader& reader, const std::string& checkpoint) {
  Statement row = reader.connection().Prepare("SELECT step FROM artifacts WHERE id = ?");
  row.Text(checkpoint);
  const int64_t step = row.Step() ? row.GetInt(0) : 0;
  THAW_RETURN_IF_ERROR(row.status());
  return step;
}

bool MayCarry(const v1::Event& event) {
  return event.has_metric_points() || event.has_phase_start() || event.has_evaluation_end() ||
         event.has_warning() || event.has_log_line() || event.has_generated_text() ||
         event.has_steering_applied();
}

// Appends the new events; points that follow each other go into one event, one row. `steered`:
// something that was asked for has been applied.
absl::Status AppendReported(Transaction& transaction, JobRow* row, AttemptRecord* attempt,
                            google::protobuf::RepeatedPtrField<v1::WorkerEvent>* events,
                            bool* steered) {
  v1::Event points;
  auto flush = [&]() -> absl::Status {
    if (!points.has_metric_points()) return absl::OkStatus();
    absl::Status status = AppendEvent(transaction, row, &points);
    points.Clear();
    return status;
  };
  for (v1::WorkerEvent& reported : *events) {
    if (reported.sequence() <= attempt->acknowledged) continue;
    if (reported.sequence() != attempt->acknowledged + 1) break;
    attempt->acknowledged = reported.sequence();
    if (!MayCarry(reported.event())) continue;
    v1::Event event = std::move(*reported.mutable_event());
    event.set_attempt(attempt->number);
    if (event.has_metric_points()) {
      if (points.has_metric_points()) {
        points.mutable_metric_points()->MergeFrom(event.metric_points());
      } else {
        points = std::move(event);
      }
      continue;
    }
    // Without a number it is another run's steering that is repeated, which nobody waits for.
    if (event.steering_applied().number() > 0) {
      THAW_ASSIGN_OR_RETURN(
          const bool news, MarkApplied(transaction, row->number, event.mutable_steering_applied()));
      if (!news) continue;
      *steered = true;
    }
    THAW_RETURN_IF_ERROR(flush());
    THAW_RETURN_IF_ERROR(AppendEvent(transaction, row, &event));
  }
  return flush();
}

absl::Status LoadInput(Reader& reader, const std::string& id, Artifact* artifact) {
  if (id.empty()) return absl::OkStatus();
  THAW_ASSIGN_OR_RETURN(*artifact, GetArtifact(reader, "", id));
  return absl::OkStatus();
}

// Base model, tokenizer and checkpoint of the training that a prediction has as its model.
absl::Status LoadTrainingBehind(Reader& reader, const v1::Prediction& prediction,
                                v1::Assignment* assignment) {
  THAW_ASSIGN_OR_RETURN(const JobRow row, LoadJob(reader, "", prediction.model()));
  THAW_ASSIGN_OR_RETURN(JobSpecs specs, LoadSpecs(reader, row.number));
  v1::JobSpec& spec = specs.resolved_spec;
  THAW_RETURN_IF_ERROR(LoadInput(reader, spec.base_model(), assignment->mutable_model()));
  THAW_RETURN_IF_ERROR(
      LoadInput(reader, prediction.checkpoint(), assignment->mutable_checkpoint()));
  if (!spec.training().tokenizer().empty()) {
    THAW_RETURN_IF_ERROR(
        LoadInput(reader, spec.training().tokenizer(), assignment->mutable_tokenizer()));
  }
  v1::TrainingBehind& behind = *assignment->mutable_training_behind();
  if (spec.training().has_text_classification()) {
    Artifact dataset;
    THAW_RETURN_IF_ERROR(LoadInput(reader, spec.training().dataset(), &dataset));
    for (const v1::LabelCount& count : dataset.dataset().labels()) {
      behind.add_labels(count.label());
    }
  }
  *behind.mutable_spec() = std::move(spec);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::Assignment> BeginAttempt(Transaction& transaction, const std::string& job,
                                            const std::string& attempt_id,
                                            const std::string& worker,
                                            v1::Resources::DeviceKind kind) {
  THAW_ASSIGN_OR_RETURN(JobRow row, LoadJob(transaction, "", job));
  THAW_ASSIGN_OR_RETURN(const int64_t start_step, CheckpointStep(transaction, row.checkpoint));
  const int64_t now = transaction.WallMicros();
  const double waited =
      static_cast<double>(now - std::max(row.queued_micros, row.not_before_micros)) / 1e6;
  row.body.set_attempt(row.body.attempt() + 1);
  row.body.set_worker(worker);
  row.attempt_id = attempt_id;
  JobInput input;
  input.kind = JobInput::kAssign;
  input.worker = worker;
  THAW_RETURN_IF_ERROR(ApplyInput(transaction, &row, input));
  if (row.body.attempt() > 1) {
    v1::Event event;
    event.set_attempt(row.body.attempt());
    event.mutable_rolled_back()->set_to_step(start_step);
    THAW_RETURN_IF_ERROR(AppendEvent(transaction, &row, &event));
    THAW_RETURN_IF_ERROR(SaveJob(transaction, &row, /*visible=*/false));
  }
  THAW_RETURN_IF_ERROR(transaction.connection()
                           .Prepare("INSERT INTO attempts(id, job, number, worker, state, "
                                    "device_kind, start_step, begin_sequence, offered) "
                                    "VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)")
                           .Text(attempt_id)
                           .Int(row.number)
                           .Int(row.body.attempt())
                           .Text(worker)
                           .Int(static_cast<int>(AttemptState::kOffered))
                           .Int(kind)
                           .Int(start_step)
                           .Int(row.last_sequence)
                           .Int(now)
                           .Run());
  transaction.effects().queue_waits.push_back(std::max(0.0, waited));
  return BuildAssignment(transaction, attempt_id);
}

absl::StatusOr<v1::Assignment> BuildAssignment(Reader& reader, const std::string& attempt_id) {
  THAW_ASSIGN_OR_RETURN(const AttemptRecord attempt, GetAttempt(reader, attempt_id));
  THAW_ASSIGN_OR_RETURN(const JobRow row, LoadJob(reader, "", attempt.job));
  THAW_ASSIGN_OR_RETURN(JobSpecs specs, LoadSpecs(reader, row.number));
  int64_t kind = 0;
  {
    Statement stored = reader.connection().Prepare("SELECT device_kind FROM attempts WHERE id = ?");
    stored.Text(attempt_id);
    if (stored.Step()) kind = stored.GetInt(0);
    THAW_RETURN_IF_ERROR(stored.status());
  }
  v1::JobSpec& spec = specs.resolved_spec;
  v1::Assignment assignment;
  const v1::Training* training = TrainingOf(spec);
  const std::string& dataset =
      training != nullptr ? training->dataset() : spec.prediction().dataset();
  if (!TrainingBehindOf(spec).empty()) {
    THAW_RETURN_IF_ERROR(LoadTrainingBehind(reader, spec.prediction(), &assignment));
  } else {
    THAW_RETURN_IF_ERROR(
        LoadInput(reader, training != nullptr ? spec.base_model() : spec.prediction().model(),
                  assignment.mutable_model()));
  }
  if (training != nullptr && !training->tokenizer().empty()) {
    THAW_RETURN_IF_ERROR(LoadInput(reader, training->tokenizer(), assignment.mutable_tokenizer()));
  }
  if (!assignment.model().base_model().empty()) {
    THAW_RETURN_IF_ERROR(
        LoadInput(reader, assignment.model().base_model(), assignment.mutable_base()));
  }
  for (const std::string& model : spec.prediction().classify().average_with()) {
    THAW_RETURN_IF_ERROR(LoadInput(reader, model, assignment.add_average_with()));
  }
  if (!dataset.empty()) {
    THAW_RETURN_IF_ERROR(LoadInput(reader, dataset, assignment.mutable_dataset()));
  }
  if (training != nullptr && !training->validation_dataset().empty()) {
    THAW_RETURN_IF_ERROR(
        LoadInput(reader, training->validation_dataset(), assignment.mutable_validation_dataset()));
  }
  if (!row.checkpoint.empty()) {
    THAW_RETURN_IF_ERROR(LoadInput(reader, row.checkpoint, assignment.mutable_checkpoint()));
  }
  if (spec.has_max_runtime()) {
    const int64_t left =
        std::max<int64_t>(0, ToMicros(spec.max_runtime()) - row.runtime_used_micros);
    assignment.mutable_runtime_left()->set_seconds(left / 1'000'000);
    assignment.mutable_runtime_left()->set_nanos(static_cast<int32_t>(left % 1'000'000) * 1'000);
  }
  spec.mutable_resources()->set_device_kind(static_cast<v1::Resources::DeviceKind>(kind));
  assignment.set_job(attempt.job);
  assignment.set_attempt_id(attempt_id);
  assignment.set_attempt(attempt.number);
  assignment.set_owner(row.body.owner());
  *assignment.mutable_create_time() = row.body.create_time();
  assignment.set_micro_step_divisor(row.life.micro_step_divisor);
  THAW_ASSIGN_OR_RETURN(std::vector<v1::SteeringRecord> steerings,
                        SteeringsOf(reader, row.number, /*waiting=*/false));
  for (v1::SteeringRecord& record : steerings) *assignment.add_steerings() = std::move(record);
  *assignment.mutable_spec() = std::move(spec);
  return assignment;
}

absl::StatusOr<AttemptRecord> GetAttempt(Reader& reader, const std::string& attempt_id) {
  Statement row =
      reader.connection().Prepare("SELECT " THAW_ATTEMPT_COLUMNS "WHERE attempts.id = ?");
  row.Text(attempt_id);
  if (row.Step()) return ReadAttempt(row);
  THAW_RETURN_IF_ERROR(row.status());
  return absl::NotFoundError(absl::StrCat("there is no attempt \"", attempt_id, "\""));
}

absl::StatusOr<AttemptRecord> GetLiveAttempt(Reader& reader, const std::string& attempt_id) {
  Statement row = reader.connection().Prepare(
      "SELECT " THAW_ATTEMPT_COLUMNS "WHERE attempts.id = ? AND jobs.attempt_id = attempts.id");
  row.Text(attempt_id);
  if (row.Step()) return ReadAttempt(row);
  THAW_RETURN_IF_ERROR(row.status());
  return Stale(reader, attempt_id);
}

absl::StatusOr<std::vector<AttemptRecord>> LiveAttempts(Reader& reader) {
  std::vector<AttemptRecord> attempts;
  Statement rows = reader.connection().Prepare(
      "SELECT " THAW_ATTEMPT_COLUMNS
      "WHERE jobs.state IN (2, 3, 4, 6) AND jobs.attempt_id = attempts.id ORDER BY jobs.number");
  while (rows.Step()) attempts.push_back(ReadAttempt(rows));
  THAW_RETURN_IF_ERROR(rows.status());
  return attempts;
}

absl::StatusOr<AttemptRecord> ApplyReport(Transaction& transaction, const std::string& worker,
                                          const std::string& incarnation, int64_t sync_number,
                                          v1::AttemptReport report) {
  THAW_ASSIGN_OR_RETURN(LiveJob live, LoadLive(transaction, report.attempt_id()));
  AttemptRecord& attempt = live.attempt;
  if (attempt.worker != worker) return Stale(transaction, report.attempt_id());
  const int64_t acknowledged_before = attempt.acknowledged;
  const bool accepts = attempt.state == AttemptState::kOffered;
  if (accepts) {
    attempt.state = AttemptState::kAccepted;
    attempt.incarnation = incarnation;
    attempt.accepted_number = sync_number;
  }
  JobInput input;
  input.worker = worker;
  // Said with every report, and news but once.
  if (report.state() == v1::AttemptReport::RUNNING && live.row.life.state == Job::STARTING) {
    input.kind = JobInput::kRunning;
    THAW_RETURN_IF_ERROR(ApplyInput(transaction, &live.row, input));
  }
  bool steered = false;
  THAW_RETURN_IF_ERROR(
      AppendReported(transaction, &live.row, &attempt, report.mutable_events(), &steered));
  if (report.has_progress()) live.row.progress = std::move(*report.mutable_progress());
  if (accepts || attempt.acknowledged != acknowledged_before) {
    THAW_RETURN_IF_ERROR(
        transaction.connection()
            .Prepare("UPDATE attempts SET state = ?, incarnation = ?, accepted_number = ?, "
                     "acknowledged = ? WHERE id = ?")
            .Int(static_cast<int>(attempt.state))
            .Text(attempt.incarnation)
            .Int(attempt.accepted_number)
            .Int(attempt.acknowledged)
            .Text(attempt.id)
            .Run());
  }
  THAW_RETURN_IF_ERROR(SaveJob(transaction, &live.row, /*visible=*/steered));
  // Its end counts once everything before it has arrived.
  const bool whole = report.events().empty() ||
                     report.events(report.events_size() - 1).sequence() <= attempt.acknowledged;
  if (report.state() == v1::AttemptReport::ENDED && whole) {
    input.kind = JobInput::kAttemptEnd;
    input.end = report.end();
    THAW_RETURN_IF_ERROR(ApplyInput(transaction, &live.row, input));
    attempt.state = AttemptState::kEnded;
  }
  attempt.job_state = live.row.life.state;
  return attempt;
}

absl::Status LoseAttempt(Transaction& transaction, const std::string& attempt_id,
                         const std::string& detail) {
  THAW_ASSIGN_OR_RETURN(LiveJob live, LoadLive(transaction, attempt_id));
  JobInput input;
  input.kind = JobInput::kAttemptLost;
  input.worker = live.attempt.worker;
  input.detail = detail;
  return ApplyInput(transaction, &live.row, input, AttemptState::kLost);
}

absl::Status WithdrawAttempt(Transaction& transaction, const std::string& attempt_id) {
  THAW_ASSIGN_OR_RETURN(LiveJob live, LoadLive(transaction, attempt_id));
  JobInput input;
  input.kind = JobInput::kOfferWithdrawn;
  return ApplyInput(transaction, &live.row, input);
}

absl::StatusOr<bool> ReattachAttempt(Transaction& transaction, const std::string& worker,
                                     const std::string& attempt_id) {
  absl::StatusOr<AttemptRecord> attempt = GetAttempt(transaction, attempt_id);
  if (absl::IsNotFound(attempt.status())) return false;
  THAW_RETURN_IF_ERROR(attempt.status());
  if (attempt->state != AttemptState::kLost || attempt->worker != worker) return false;
  THAW_ASSIGN_OR_RETURN(JobRow row, LoadJob(transaction, "", attempt->job));
  if (row.life.state != Job::QUEUED || row.body.attempt() != attempt->number) return false;
  row.attempt_id = attempt_id;
  THAW_RETURN_IF_ERROR(
      transaction.connection()
          .Prepare("UPDATE attempts SET state = ?, ended = 0, ending = '' WHERE id = ?")
          .Int(static_cast<int>(AttemptState::kOffered))
          .Text(attempt_id)
          .Run());
  JobInput input;
  input.kind = JobInput::kReattach;
  input.worker = worker;
  THAW_RETURN_IF_ERROR(ApplyInput(transaction, &row, input));
  return true;
}

absl::StatusOr<Artifact> CommitCheckpoint(Transaction& transaction, const std::string& attempt_id,
                                          const NewCheckpoint& checkpoint) {
  absl::StatusOr<Artifact> earlier = GetArtifact(transaction, "", checkpoint.artifact.id());
  if (!absl::IsNotFound(earlier.status())) return earlier;
  THAW_ASSIGN_OR_RETURN(LiveJob live, LoadLive(transaction, attempt_id));
  JobInput input;
  input.kind = JobInput::kCommitCheckpoint;
  THAW_RETURN_IF_ERROR(ApplyInput(transaction, &live.row, input));
  Artifact artifact = checkpoint.artifact;
  artifact.set_kind(Artifact::CHECKPOINT);
  artifact.set_state(Artifact::READY);
  artifact.set_owner(live.row.body.owner());
  artifact.set_job(live.row.body.id());
  THAW_ASSIGN_OR_RETURN(artifact, InsertArtifact(transaction, artifact));
  THAW_RETURN_IF_ERROR(
      transaction.connection()
          .Prepare("UPDATE artifacts SET step = ?, phase = ?, best = ? WHERE id = ?")
          .Int(checkpoint.step)
          .Int(checkpoint.phase)
          .Int(checkpoint.best ? 1 : 0)
          .Text(artifact.id())
          .Run());
  v1::Event event;
  event.set_attempt(live.attempt.number);
  v1::CheckpointCommitted& committed = *event.mutable_checkpoint_committed();
  committed.set_checkpoint(artifact.id());
  committed.set_step(checkpoint.step);
  committed.set_phase(checkpoint.phase);
  committed.set_size_bytes(artifact.size_bytes());
  THAW_RETURN_IF_ERROR(AppendEvent(transaction, &live.row, &event));
  live.row.checkpoint = artifact.id();
  THAW_RETURN_IF_ERROR(PruneCheckpoints(transaction, live.row.body.id(), /*ended=*/false));
  THAW_RETURN_IF_ERROR(SaveJob(transaction, &live.row, /*visible=*/false));
  return artifact;
}

absl::StatusOr<std::string> NewestCheckpoint(Reader& reader, const std::string& job) {
  THAW_ASSIGN_OR_RETURN(const JobRow row, LoadJob(reader, "", job));
  return row.checkpoint;
}

absl::StatusOr<Artifact> CommitResult(Transaction& transaction, const std::string& attempt_id,
                                      const Artifact& artifact,
                                      const std::map<std::string, double>& metrics) {
  absl::StatusOr<Artifact> earlier = GetArtifact(transaction, "", artifact.id());
  if (!absl::IsNotFound(earlier.status())) return earlier;
  THAW_ASSIGN_OR_RETURN(LiveJob live, LoadLive(transaction, attempt_id));
  Artifact result = artifact;
  result.set_kind(Artifact::RESULT);
  result.set_state(Artifact::READY);
  result.set_owner(live.row.body.owner());
  result.set_job(live.row.body.id());
  for (const auto& [name, value] : metrics) {
    (*result.mutable_metrics())[name] = value;
    (*live.row.body.mutable_result_metrics())[name] = value;
  }
  live.row.body.set_result(result.id());
  THAW_ASSIGN_OR_RETURN(result, InsertArtifact(transaction, result));
  JobInput input;
  input.kind = JobInput::kCommitResult;
  THAW_RETURN_IF_ERROR(ApplyInput(transaction, &live.row, input));
  return result;
}

}  // namespace thaw
