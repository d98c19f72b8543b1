#include "server/jobs/job_table.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/id.h"
#include "common/base/status.h"
#include "server/jobs/held_artifacts.h"
#include "server/jobs/job_row.h"
#include "server/jobs/request_ids.h"
#include "server/jobs/steering_table.h"

namespace thaw {
namespace {

using v1::Job;

constexpr char kCreateJobCall[] = "CreateJob";
constexpr size_t kMaxPageBytes = 3 << 20;  // an answer fits into one message

absl::StatusOr<Job> LoadWhole(Reader& reader, const std::string& owner, const std::string& id) {
  THAW_ASSIGN_OR_RETURN(const JobRow row, LoadJob(reader, owner, id));
  THAW_ASSIGN_OR_RETURN(const JobSpecs specs, LoadSpecs(reader, row.number));
  Job job = ToJob(row, &specs);
  THAW_ASSIGN_OR_RETURN(std::vector<v1::SteeringRecord> steerings,
                        SteeringsOf(reader, row.number, /*waiting=*/false));
  for (v1::SteeringRecord& record : steerings) *job.add_steerings() = std::move(record);
  return job;
}

absl::StatusOr<Job> ApplyUserInput(Transaction& transaction, const std::string& owner,
                                   const std::string& id, JobInput::Kind kind) {
  THAW_ASSIGN_OR_RETURN(JobRow row, LoadJob(transaction, owner, id));
  JobInput input;
  input.kind = kind;
  THAW_RETURN_IF_ERROR(Annotate(ApplyInput(transaction, &row, input), id));
  return LoadWhole(transaction, owner, id);
}

// A bit for each state that is wanted.
int64_t StateMask(const JobFilter& filter) {
  if (filter.states.empty()) return -1;
  int64_t mask = 0;
  for (Job::State state : filter.states) {
    if (Job::State_IsValid(state)) mask |= int64_t{1} << state;
  }
  return mask;
}

bool HasLabels(const JobFilter& filter, const v1::JobSpec& spec) {
  for (const auto& [key, value] : filter.labels) {
    const auto found = spec.labels().find(key);
    if (found == spec.labels().end() || found->second != value) return false;
  }
  return true;
}

// What a list does not show: it can be large, and GetJob has it.
void Shorten(v1::JobSpec* spec) {
  if (!spec->has_prediction()) return;
  v1::Prediction* prediction = spec->mutable_prediction();
  if (prediction->has_texts()) prediction->mutable_texts()->clear_values();
  if (prediction->has_examples()) prediction->mutable_examples()->clear_values();
}

std::string FilterText(const JobFilter& filter) {
  std::string text = absl::StrCat("jobs\n", filter.owner, "\n");
  for (Job::State state : filter.states) absl::StrAppend(&text, state, ",");
  for (const auto& [key, value] : filter.labels) absl::StrAppend(&text, "\n", key, "=", value);
  return text;
}

}  // namespace

absl::StatusOr<Job> CreateJob(Transaction& transaction, const NewJob& job) {
  THAW_ASSIGN_OR_RETURN(
      const std::string earlier,
      FindRequest(transaction, job.owner, kCreateJobCall, job.request_id, job.spec));
  if (!earlier.empty()) return LoadWhole(transaction, job.owner, earlier);

  const int64_t now = transaction.WallMicros();
  JobRow row;
  row.create_micros = now;
  row.queued_micros = now;
  row.priority = job.resolved_spec.priority();
  row.resources = job.resolved_spec.resources();
  row.body.set_id(NewId("job"));
  row.body.set_owner(job.owner);
  row.body.set_state(Job::QUEUED);
  row.body.set_state_reason("waits for the scheduler");
  *row.body.mutable_create_time() = ToTimestamp(now);
  const JobSpecs specs{job.spec, job.resolved_spec};
  THAW_RETURN_IF_ERROR(InsertJob(transaction, &row, specs));
  THAW_RETURN_IF_ERROR(
      HoldArtifacts(transaction, job.visible_owner, job.resolved_spec, row.number));

  v1::Event event;
  event.mutable_state_change()->set_to(Job::QUEUED);
  event.mutable_state_change()->set_reason(row.body.state_reason());
  THAW_RETURN_IF_ERROR(AppendEvent(transaction, &row, &event));
  THAW_RETURN_IF_ERROR(SaveJob(transaction, &row, /*visible=*/true));
  THAW_RETURN_IF_ERROR(
      PutRequest(transaction, job.owner, kCreateJobCall, job.request_id, job.spec, row.body.id()));
  transaction.effects().moves.emplace_back(Job::STATE_UNSPECIFIED, Job::QUEUED);
  return ToJob(row, &specs);
}

absl::StatusOr<Job> FindJobByRequest(Reader& reader, const std::string& owner,
                                     const std::string& request_id, const v1::JobSpec& spec) {
  THAW_ASSIGN_OR_RETURN(const std::string id,
                        FindRequest(reader, owner, kCreateJobCall, request_id, spec));
  if (id.empty()) return absl::NotFoundError("no job was made by this request");
  return LoadWhole(reader, owner, id);
}

absl::StatusOr<Job> GetJob(Reader& reader, const std::string& owner, const std::string& id) {
  return LoadWhole(reader, owner, id);
}

absl::StatusOr<Page<Job>> ListJobs(Reader& reader, const JobFilter& filter, int page_size,
                                   const std::string& page_token) {
  const std::string text = FilterText(filter);
  THAW_ASSIGN_OR_RETURN(const int64_t before, ParsePageToken(page_token, text));
  Page<Job> page;
  int64_t last = 0;
  size_t bytes = 0;
  // An empty owner matches all: the comparison is then decided by the second parameter alone.
  Statement rows = reader.connection().Prepare(
      "SELECT " THAW_JOB_COLUMNS
      " FROM jobs WHERE number < ?1 AND (?2 = '' OR owner = ?2) AND ((1 << state) & ?3) != 0 "
      "ORDER BY number DESC");
  rows.Int(before).Text(filter.owner).Int(StateMask(filter));
  while (rows.Step()) {
    const JobRow row = ReadJobRow(rows);
    THAW_ASSIGN_OR_RETURN(JobSpecs specs, LoadSpecs(reader, row.number));
    if (!HasLabels(filter, specs.spec)) continue;
    Shorten(&specs.spec);
    Job job = ToJob(row, &specs);
    job.clear_resolved_spec();
    bytes += job.ByteSizeLong();
    if (static_cast<int>(page.items.size()) == page_size ||
        (bytes > kMaxPageBytes && !page.items.empty())) {
      page.next_page_token = MakePageToken(last, text);
      break;
    }
    page.items.push_back(std::move(job));
    last = row.number;
  }
  THAW_RETURN_IF_ERROR(rows.status());
  return page;
}

absl::StatusOr<Job> CancelJob(Transaction& transaction, const std::string& owner,
                              const std::string& id) {
  return ApplyUserInput(transaction, owner, id, JobInput::kCancel);
}

absl::StatusOr<Job> PauseJob(Transaction& transaction, const std::string& owner,
                             const std::string& id) {
  return ApplyUserInput(transaction, owner, id, JobInput::kPause);
}

absl::StatusOr<Job> ResumeJob(Transaction& transaction, const std::string& owner,
                              const std::string& id) {
  return ApplyUserInput(transaction, owner, id, JobInput::kResume);
}

absl::StatusOr<Job> UpdateJob(Transaction& transaction, const std::string& owner,
                              const std::string& id, const std::string& etag,
                              const v1::JobSpec& values, const google::protobuf::FieldMask& mask) {
  THAW_ASSIGN_OR_RETURN(JobRow row, LoadJob(transaction, owner, id));
  if (!etag.empty() && etag != ToJob(row, nullptr).etag()) {
    return WithReason(
        absl::AbortedError(absl::StrCat(id, " has changed since etag \"", etag,
                                        "\" was read: get the job again and repeat the change")),
        "ETAG_MISMATCH");
  }
  THAW_ASSIGN_OR_RETURN(JobSpecs specs, LoadSpecs(transaction, row.number));
  if (mask.paths().empty()) {
    return InvalidField("update_mask", "is empty: name priority, labels or display_name");
  }
  if (IsTerminal(row.life.state) &&
      std::find(mask.paths().begin(), mask.paths().end(), "priority") != mask.paths().end()) {
    return absl::FailedPreconditionError(
        absl::StrCat(id, " has ended: its priority means nothing"));
  }
  v1::Event event;
  for (const std::string& path : mask.paths()) {
    for (v1::JobSpec* spec : {&specs.spec, &specs.resolved_spec}) {
      if (path == "priority") {
        spec->set_priority(values.priority());
        row.priority = values.priority();
      } else if (path == "labels") {
        *spec->mutable_labels() = values.labels();
      } else if (path == "display_name") {
        spec->set_display_name(values.display_name());
      } else {
        return InvalidField("update_mask", absl::StrCat("\"", path,
                                                        "\" cannot be changed; only "
                                                        "priority, labels and display_name can"));
      }
    }
    event.mutable_job_updated()->add_fields(path);
  }
  THAW_RETURN_IF_ERROR(SaveSpecs(transaction, row.number, specs));
  // Nothing follows the terminal event, so the labels of an ended job change without one.
  if (!IsTerminal(row.life.state)) THAW_RETURN_IF_ERROR(AppendEvent(transaction, &row, &event));
  THAW_RETURN_IF_ERROR(SaveJob(transaction, &row, /*visible=*/true));
  return LoadWhole(transaction, owner, id);
}

absl::StatusOr<std::vector<JobView>> UnfinishedJobs(Reader& reader) {
  std::vector<JobView> jobs;
  Statement rows = reader.connection().Prepare("SELECT " THAW_JOB_COLUMNS
                                               " FROM jobs WHERE state <= 6 ORDER BY number");
  while (rows.Step()) {
    THAW_ASSIGN_OR_RETURN(jobs.emplace_back(), LoadView(reader, ReadJobRow(rows)));
  }
  THAW_RETURN_IF_ERROR(rows.status());
  return jobs;
}

}  // namespace thaw
