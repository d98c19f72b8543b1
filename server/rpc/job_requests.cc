#include "server/rpc/job_requests.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/spec/spec.h"
#include "server/jobs/artifact_table.h"
#include "server/jobs/attempt_table.h"
#include "server/jobs/job_table.h"
#include "server/jobs/steering_table.h"

namespace thaw {
namespace {

constexpr int64_t kMaxLogBytes = 256 << 10;
// Of a spec without its inline input: also of fields that this server does not know, which are kept
// for those who do.
constexpr size_t kMaxSpecBytes = 256 << 10;
constexpr int kMaxMaskPaths = 3;
constexpr int kResolveTries = 5;

void AddArtifact(Reader& reader, const Caller& caller, const std::string& id,
                 SpecContext* context) {
  if (id.empty()) return;
  auto artifact = GetArtifact(reader, caller.scope, id);
  if (artifact.ok()) context->artifacts[id] = *std::move(artifact);
}

void AddArtifacts(Reader& reader, const Caller& caller, const v1::JobSpec& spec,
                  SpecContext* context) {
  for (const SpecReference& reference : ReferencesOf(spec)) {
    AddArtifact(reader, caller, reference.id, context);
  }
}

// What a new job hangs on, as of one moment.
struct Surroundings {
  absl::StatusOr<v1::Job> earlier =
      absl::NotFoundError("");  // the job that this request made before
  SpecContext context;
};

absl::Status AddModelJob(Reader& reader, const Caller& caller, const std::string& id,
                         SpecContext* context) {
  absl::StatusOr<v1::Job> found = GetJob(reader, caller.scope, id);
  if (absl::IsNotFound(found.status())) return absl::OkStatus();
  THAW_RETURN_IF_ERROR(found.status());
  ModelJob& job = context->jobs[id];
  job.state = found->state();
  job.result = found->result();
  THAW_ASSIGN_OR_RETURN(job.checkpoint, NewestCheckpoint(reader, id));
  AddArtifacts(reader, caller, found->resolved_spec(), context);
  AddArtifact(reader, caller, job.result, context);
  job.resolved_spec = std::move(*found->mutable_resolved_spec());
  return absl::OkStatus();
}

// One read for all of it: each costs a submit as much as the sums that it does.
absl::StatusOr<Surroundings> LookAround(const ServerParts& parts, const Caller& caller,
                                        const v1::CreateJobRequest& request) {
  Surroundings found;
  THAW_RETURN_IF_ERROR(parts.store.Read([&](Reader& reader) {
    if (!request.request_id().empty() && !request.validate_only()) {
      found.earlier = FindJobByRequest(reader, caller.owner, request.request_id(), request.spec());
      if (!absl::IsNotFound(found.earlier.status())) return absl::OkStatus();
    }
    AddArtifacts(reader, caller, request.spec(), &found.context);
    const std::string& model = request.spec().prediction().model();
    return IsJobId(model) ? AddModelJob(reader, caller, model, &found.context) : absl::OkStatus();
  }));
  return found;
}

absl::Status CheckSize(const v1::JobSpec& spec) {
  const size_t bytes = spec.ByteSizeLong() - spec.prediction().texts().ByteSizeLong() -
                       spec.prediction().examples().ByteSizeLong();
  if (bytes <= kMaxSpecBytes) return absl::OkStatus();
  return InvalidField("spec", absl::StrCat("has ", bytes, " bytes besides its input: give at most ",
                                           kMaxSpecBytes));
}

absl::Status CheckRequestId(const std::string& id) {
  if (id.size() <= 64) return absl::OkStatus();
  return InvalidField("request_id", "is longer than 64 bytes: shorten it");
}

absl::Status CheckRoom(const ServerParts& parts) {
  if (!parts.accepting) return absl::UnavailableError("the server stops: try again in a moment");
  THAW_RETURN_IF_ERROR(parts.artifacts.budget().CheckNotShort());
  const StoreStats stats = parts.store.Stats();
  const auto queued = stats.jobs.find(v1::Job::QUEUED);
  if (queued == stats.jobs.end() || queued->second < parts.max_queued_jobs) return absl::OkStatus();
  return WithReason(
      absl::ResourceExhaustedError(absl::StrCat(queued->second,
                                                " jobs are queued, which is all that the server "
                                                "takes: try again when some have run")),
      "QUEUE_FULL");
}

}  // namespace

absl::StatusOr<v1::Job> SubmitJob(const ServerParts& parts, const Caller& caller,
                                  const v1::CreateJobRequest& request) {
  THAW_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  THAW_RETURN_IF_ERROR(CheckSize(request.spec()));
  absl::StatusOr<v1::Job> job;
  // A training that is the model may have moved on between the two.
  for (int i = 0; i < kResolveTries; ++i) {
    THAW_ASSIGN_OR_RETURN(const Surroundings found, LookAround(parts, caller, request));
    if (found.earlier.ok()) {
      job = found.earlier;
      break;
    }
    if (!absl::IsNotFound(found.earlier.status())) return found.earlier.status();
    THAW_ASSIGN_OR_RETURN(v1::JobSpec resolved, ResolveSpec(request.spec(), found.context));
    if (request.validate_only()) {
      v1::Job shown;
      shown.set_owner(caller.owner);
      *shown.mutable_spec() = request.spec();
      *shown.mutable_resolved_spec() = std::move(resolved);
      return shown;
    }
    THAW_RETURN_IF_ERROR(CheckRoom(parts));
    const NewJob new_job{.owner = caller.owner,
                         .visible_owner = caller.scope,
                         .request_id = request.request_id(),
                         .spec = request.spec(),
                         .resolved_spec = std::move(resolved)};
    job = parts.store.Write(
        [&](Transaction& transaction) { return CreateJob(transaction, new_job); });
    if (ReasonOf(job.status()) != "CHECKPOINT_GONE") break;
  }
  if (job.ok()) parts.dispatcher.FillQueue(&*job);
  return job;
}

absl::StatusOr<v1::Job> ChangeJob(const ServerParts& parts, const Caller& caller,
                                  const v1::UpdateJobRequest& request) {
  THAW_ASSIGN_OR_RETURN(const v1::Job before, parts.store.Read([&](Reader& reader) {
    return GetJob(reader, caller.scope, request.id());
  }));
  if (request.update_mask().paths_size() > kMaxMaskPaths) {
    return InvalidField("update_mask", absl::StrCat("has ", request.update_mask().paths_size(),
                                                    " paths: name each field once"));
  }
  v1::JobSpec after = before.spec();
  for (const std::string& path : request.update_mask().paths()) {
    if (path == "priority") after.set_priority(request.spec().priority());
    if (path == "labels") *after.mutable_labels() = request.spec().labels();
    if (path == "display_name") after.set_display_name(request.spec().display_name());
  }
  THAW_RETURN_IF_ERROR(ValidateSpec(after));
  THAW_ASSIGN_OR_RETURN(v1::Job job, parts.store.Write([&](Transaction& transaction) {
    return UpdateJob(transaction, caller.scope, request.id(), request.etag(), request.spec(),
                     request.update_mask());
  }));
  parts.dispatcher.FillQueue(&job);
  return job;
}

absl::StatusOr<v1::Job> ActOnJob(const ServerParts& parts, const Caller& caller,
                                 const v1::SteerJobRequest& request) {
  // A foreign job is not there, whatever else is wrong.
  THAW_RETURN_IF_ERROR(
      parts.store.Read([&](Reader& reader) { return GetJob(reader, caller.scope, request.id()); })
          .status());
  if (request.request_id().empty()) {
    return InvalidField("request_id", "is empty: give a fresh one, so that a retry asks once");
  }
  THAW_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  THAW_RETURN_IF_ERROR(ValidateSteering(request.action()));
  THAW_ASSIGN_OR_RETURN(v1::Job job, parts.store.Write([&](Transaction& transaction) {
    return SteerJob(transaction, caller.scope, request);
  }));
  parts.dispatcher.FillQueue(&job);
  return job;
}

absl::StatusOr<v1::ReadJobLogResponse> ReadLog(const ServerParts& parts, const Caller& caller,
                                               const v1::ReadJobLogRequest& request) {
  if (request.offset() < 0 || request.attempt() < 0) {
    return InvalidField(request.offset() < 0 ? "offset" : "attempt", "is negative");
  }
  THAW_ASSIGN_OR_RETURN(const v1::Job job, parts.store.Read([&](Reader& reader) {
    return GetJob(reader, caller.scope, request.id());
  }));
  if (request.attempt() > job.attempt()) {
    return absl::NotFoundError(absl::StrCat(request.id(), " has had ", job.attempt(),
                                            " attempts, not ", request.attempt()));
  }
  v1::ReadJobLogResponse response;
  const int attempt = request.attempt() == 0 ? job.attempt() : request.attempt();
  THAW_ASSIGN_OR_RETURN(*response.mutable_content(),
                        parts.logs.Read(request.id(), attempt, request.offset(), kMaxLogBytes));
  response.set_next_offset(request.offset() + static_cast<int64_t>(response.content().size()));
  return response;
}

absl::StatusOr<int> PageSize(absl::string_view field, int value, int most, int fallback) {
  if (value == 0) return fallback;
  if (value < 1 || value > most) {
    return InvalidField(field, absl::StrCat("is ", value, ": give 1 to ", most));
  }
  return value;
}

}  // namespace thaw
