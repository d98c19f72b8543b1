#include "server/jobs/steering_table.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "server/jobs/job_row.h"
#include "server/jobs/job_table.h"

namespace thaw {
namespace {

using v1::Job;

constexpr int kMostSteerings = 1'000;

absl::Status Refuse(const std::string& id, absl::string_view why, const char* reason) {
  return WithReason(absl::FailedPreconditionError(absl::StrCat(id, " ", why)), reason);
}

absl::Status CheckSteerable(Reader& reader, const JobRow& row, const v1::Steering& action) {
  const std::string& id = row.body.id();
  if (IsTerminal(row.life.state) || row.life.state == Job::CANCELLING) {
    return Refuse(id,
                  absl::StrCat("is ", Job::State_Name(row.life.state),
                               ": there is nothing to steer any more; submit it again"),
                  "JOB_ENDED");
  }
  THAW_ASSIGN_OR_RETURN(const JobSpecs specs, LoadSpecs(reader, row.number));
  if (!specs.resolved_spec.has_training()) {
    return Refuse(id, "is no training: only trainings are steered; pause or cancel it",
                  "NOT_A_TRAINING");
  }
  if (action.has_stop() && !row.body.has_start_time()) {
    return Refuse(id, "has not begun, so that there is nothing to keep: cancel it instead",
                  "NOT_BEGUN");
  }
  return absl::OkStatus();
}

bool ParseRecord(absl::string_view body, v1::SteeringRecord* record) {
  return record->ParseFromArray(body.data(), static_cast<int>(body.size()));
}

}  // namespace

absl::StatusOr<Job> SteerJob(Transaction& transaction, const std::string& owner,
                             const v1::SteerJobRequest& request) {
  THAW_ASSIGN_OR_RETURN(JobRow row, LoadJob(transaction, owner, request.id()));
  {
    Statement earlier = transaction.connection().Prepare(
        "SELECT body FROM steerings WHERE job = ? AND request_id = ?");
    earlier.Int(row.number).Text(request.request_id());
    if (earlier.Step()) {
      v1::SteeringRecord record;
      ParseRecord(earlier.GetBlob(0), &record);
      if (SerializeSame(record.action()) == SerializeSame(request.action())) {
        return GetJob(transaction, owner, request.id());
      }
      return WithReason(absl::AlreadyExistsError(absl::StrCat(
                            "request_id \"", request.request_id(), "\" asked ", request.id(),
                            " for something else before: choose a fresh one")),
                        "REQUEST_ID_REUSED");
    }
    THAW_RETURN_IF_ERROR(earlier.status());
  }
  THAW_RETURN_IF_ERROR(CheckSteerable(transaction, row, request.action()));
  int64_t count = 0;
  {
    Statement counted =
        transaction.connection().Prepare("SELECT count(*) FROM steerings WHERE job = ?");
    counted.Int(row.number);
    if (counted.Step()) count = counted.GetInt(0);
    THAW_RETURN_IF_ERROR(counted.status());
  }
  if (count >= kMostSteerings) {
    return Refuse(request.id(),
                  absl::StrCat("was steered ", count,
                               " times, which is all that a job takes: let it run, or cancel it"),
                  "STEERED_TOO_OFTEN");
  }
  v1::Event event;
  v1::SteeringRecord* record = event.mutable_steering_asked();
  record->set_number(static_cast<int32_t>(count) + 1);
  *record->mutable_action() = request.action();
  *record->mutable_ask_time() = ToTimestamp(transaction.WallMicros());
  THAW_RETURN_IF_ERROR(
      transaction.connection()
          .Prepare("INSERT INTO steerings(job, number, request_id, body) VALUES(?, ?, ?, ?)")
          .Int(row.number)
          .Int(record->number())
          .Text(request.request_id())
          .Blob(record->SerializeAsString())
          .Run());
  THAW_RETURN_IF_ERROR(AppendEvent(transaction, &row, &event));
  THAW_RETURN_IF_ERROR(SaveJob(transaction, &row, /*visible=*/true));
  return GetJob(transaction, owner, request.id());
}

absl::StatusOr<std::vector<v1::SteeringRecord>> SteeringsOf(Reader& reader, int64_t job,
                                                            bool waiting) {
  std::vector<v1::SteeringRecord> records;
  Statement rows = reader.connection().Prepare(
      "SELECT body FROM steerings WHERE job = ? AND applied <= ? ORDER BY number");
  rows.Int(job).Int(waiting ? 0 : 1);
  while (rows.Step()) ParseRecord(rows.GetBlob(0), &records.emplace_back());
  THAW_RETURN_IF_ERROR(rows.status());
  return records;
}

absl::StatusOr<bool> MarkApplied(Transaction& transaction, int64_t job, v1::SteeringRecord* told) {
  v1::SteeringRecord record;
  {
    Statement row = transaction.connection().Prepare(
        "SELECT body FROM steerings WHERE job = ? AND number = ? AND applied = 0");
    row.Int(job).Int(told->number());
    const bool found = row.Step() && ParseRecord(row.GetBlob(0), &record);
    THAW_RETURN_IF_ERROR(row.status());
    if (!found) return false;
  }
  record.set_applied(true);
  record.set_step(told->step());
  THAW_RETURN_IF_ERROR(
      transaction.connection()
          .Prepare("UPDATE steerings SET applied = 1, body = ? WHERE job = ? AND number = ?")
          .Blob(record.SerializeAsString())
          .Int(job)
          .Int(record.number())
          .Run());
  *told = std::move(record);
  return true;
}

}  // namespace thaw
