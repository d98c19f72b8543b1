#include "client/job_client.h"

#include <algorithm>

#include "client/caller.h"
#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "thaw/v1/fine_tune_service.grpc.pb.h"
#include "thaw/v1/worker_service.grpc.pb.h"

namespace thaw {
namespace {

using v1::FineTuneService;
using v1::WorkerService;

constexpr int kPageSize = 200;
constexpr double kLongestReconnectWait = 5;
constexpr double kLookForStopSeconds = 0.1;

template <typename Request>
Request WithId(const std::string& id) {
  Request request;
  request.set_id(id);
  return request;
}

// What a new connection may mend.
bool WatchMayGoOn(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsInternal(status) || absl::IsUnknown(status) ||
         absl::IsDeadlineExceeded(status) || absl::IsResourceExhausted(status);
}

}  // namespace

struct JobClient::Stubs {
  explicit Stubs(const std::shared_ptr<grpc::Channel>& channel)
      : jobs(FineTuneService::NewStub(channel)), workers(WorkerService::NewStub(channel)) {}
  std::unique_ptr<FineTuneService::Stub> jobs;
  std::unique_ptr<WorkerService::Stub> workers;
};

JobClient::JobClient(std::shared_ptr<Caller> caller)
    : caller_(std::move(caller)), stubs_(std::make_unique<Stubs>(caller_->channel())) {}

JobClient::~JobClient() = default;

absl::StatusOr<v1::Job> JobClient::CreateJob(v1::CreateJobRequest request) {
  if (request.request_id().empty()) request.set_request_id(RandomId());
  return caller_->Call(stubs_->jobs.get(), &FineTuneService::Stub::CreateJob, request);
}

absl::StatusOr<v1::Job> JobClient::GetJob(const std::string& id) {
  return caller_->Call(stubs_->jobs.get(), &FineTuneService::Stub::GetJob,
                       WithId<v1::GetJobRequest>(id));
}

absl::StatusOr<std::vector<v1::Job>> JobClient::ListJobs(const JobFilter& filter) {
  v1::ListJobsRequest request;
  for (const v1::Job::State state : filter.states) request.add_states(state);
  request.mutable_labels()->insert(filter.labels.begin(), filter.labels.end());
  request.set_owner(filter.owner);
  request.set_page_size(filter.limit > 0 ? std::min(filter.limit, kPageSize) : kPageSize);
  std::vector<v1::Job> jobs;
  while (true) {
    THAW_ASSIGN_OR_RETURN(
        const v1::ListJobsResponse page,
        caller_->Call(stubs_->jobs.get(), &FineTuneService::Stub::ListJobs, request));
    for (const v1::Job& job : page.jobs()) {
      jobs.push_back(job);
      if (filter.limit > 0 && static_cast<int>(jobs.size()) == filter.limit) return jobs;
    }
    if (page.next_page_token().empty()) return jobs;
    request.set_page_token(page.next_page_token());
  }
}

absl::StatusOr<v1::Job> JobClient::CancelJob(const std::string& id) {
  return caller_->Call(stubs_->jobs.get(), &FineTuneService::Stub::CancelJob,
                       WithId<v1::CancelJobRequest>(id));
}

absl::StatusOr<v1::Job> JobClient::PauseJob(const std::string& id) {
  return caller_->Call(stubs_->jobs.get(), &FineTuneService::Stub::PauseJob,
                       WithId<v1::PauseJobRequest>(id));
}

absl::StatusOr<v1::Job> JobClient::ResumeJob(const std::string& id) {
  return caller_->Call(stubs_->jobs.get(), &FineTuneService::Stub::ResumeJob,
                       WithId<v1::ResumeJobRequest>(id), Repeat::kNever);
}

absl::StatusOr<v1::Job> JobClient::UpdateJob(const v1::UpdateJobRequest& request) {
  return caller_->Call(stubs_->jobs.get(), &FineTuneService::Stub::UpdateJob, request,
                       request.etag().empty() ? Repeat::kAllowed : Repeat::kNever);
}

absl::StatusOr<v1::Job> JobClient::SteerJob(v1::SteerJobRequest request) {
  if (request.request_id().empty()) request.set_request_id(RandomId());
  return caller_->Call(stubs_->jobs.get(), &FineTuneService::Stub::SteerJob, request);
}

absl::Status JobClient::WatchOnce(
    const std::string& id, int64_t* last_sequence, bool* seen_snapshot, bool* finished,
    const std::function<bool(const v1::WatchJobResponse&)>& on_message) {
  const std::unique_ptr<grpc::ClientContext> context = caller_->NewContext(0);
  {
    MutexLock lock(mutex_);
    if (stopped_) return absl::CancelledError("the watch was stopped");
    watches_.push_back(context.get());
  }
  v1::WatchJobRequest request;
  request.set_id(id);
  request.set_after_sequence(*last_sequence);
  const auto reader = stubs_->jobs->WatchJob(context.get(), request);
  v1::WatchJobResponse message;
  bool wanted = true;
  while (wanted && reader->Read(&message)) {
    if (message.has_snapshot() && std::exchange(*seen_snapshot, true)) continue;
    if (message.has_event()) {
      if (message.event().sequence() <= *last_sequence) continue;
      *last_sequence = message.event().sequence();
    }
    wanted = on_message(message);
  }
  if (!wanted) context->TryCancel();
  const absl::Status status = FromGrpcStatus(reader->Finish());
  {
    MutexLock lock(mutex_);
    watches_.erase(std::find(watches_.begin(), watches_.end(), context.get()));
    if (stopped_) return absl::CancelledError("the watch was stopped");
  }
  *finished = !wanted || status.ok();
  return *finished ? absl::OkStatus() : status;
}

absl::Status JobClient::WatchJob(
    const std::string& id, const WatchOptions& options,
    const std::function<bool(const v1::WatchJobResponse&)>& on_message) {
  int64_t last_sequence = options.after_sequence;
  bool seen_snapshot = false;
  Backoff backoff(kLongestReconnectWait);
  int64_t broken_since = 0;
  while (true) {
    const int64_t sequence_before = last_sequence;
    const bool began = seen_snapshot;
    bool finished = false;
    const absl::Status status =
        WatchOnce(id, &last_sequence, &seen_snapshot, &finished, on_message);
    if (finished || !WatchMayGoOn(status)) return status;
    const int64_t now = RealClock().BootMicros();
    if (last_sequence != sequence_before || began != seen_snapshot || broken_since == 0) {
      broken_since = now;
      backoff.Reset();
    }
    const double allowed =
        seen_snapshot ? options.reconnect_seconds : caller_->options().retry_seconds;
    if (static_cast<double>(now - broken_since) * 1e-6 >= allowed) return caller_->Explain(status);
    const int64_t again = now + static_cast<int64_t>(backoff.Next() * 1e6);
    do {
      WaitToCallAgain(caller_->channel().get(), kLookForStopSeconds);
      MutexLock lock(mutex_);
      if (stopped_) return absl::CancelledError("the watch was stopped");
    } while (RealClock().BootMicros() < again);
  }
}

void JobClient::StopWatching() {
  MutexLock lock(mutex_);
  stopped_ = true;
  for (grpc::ClientContext* context : watches_) context->TryCancel();
}

absl::StatusOr<std::vector<v1::Event>> JobClient::ListJobEvents(const std::string& id,
                                                                int64_t after_sequence) {
  v1::ListJobEventsRequest request;
  request.set_id(id);
  request.set_after_sequence(after_sequence);
  request.set_page_size(kPageSize);
  std::vector<v1::Event> events;
  while (true) {
    THAW_ASSIGN_OR_RETURN(
        const v1::ListJobEventsResponse page,
        caller_->Call(stubs_->jobs.get(), &FineTuneService::Stub::ListJobEvents, request));
    if (page.events().empty()) return events;
    events.insert(events.end(), page.events().begin(), page.events().end());
    request.set_after_sequence(events.back().sequence());
  }
}

absl::Status JobClient::ReadJobLog(const std::string& id, int attempt,
                                   const std::function<void(absl::string_view)>& on_text) {
  v1::ReadJobLogRequest request;
  request.set_id(id);
  request.set_attempt(attempt);
  while (true) {
    THAW_ASSIGN_OR_RETURN(
        const v1::ReadJobLogResponse piece,
        caller_->Call(stubs_->jobs.get(), &FineTuneService::Stub::ReadJobLog, request));
    if (piece.content().empty()) return absl::OkStatus();
    on_text(piece.content());
    request.set_offset(piece.next_offset());
  }
}

absl::StatusOr<v1::QueryMetricsResponse> JobClient::QueryMetrics(
    const v1::QueryMetricsRequest& request) {
  return caller_->Call(stubs_->jobs.get(), &FineTuneService::Stub::QueryMetrics, request);
}

absl::StatusOr<std::vector<v1::WorkerStatus>> JobClient::ListWorkers() {
  THAW_ASSIGN_OR_RETURN(const v1::ListWorkersResponse response,
                        caller_->Call(stubs_->workers.get(), &WorkerService::Stub::ListWorkers,
                                      v1::ListWorkersRequest()));
  return std::vector<v1::WorkerStatus>(response.workers().begin(), response.workers().end());
}

absl::StatusOr<v1::WorkerStatus> JobClient::DrainWorker(const std::string& name) {
  v1::DrainWorkerRequest request;
  request.set_worker(name);
  return caller_->Call(stubs_->workers.get(), &WorkerService::Stub::DrainWorker, request);
}

}  // namespace thaw
