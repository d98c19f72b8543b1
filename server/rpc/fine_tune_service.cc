#include "server/rpc/fine_tune_service.h"

#include "common/base/status.h"
#include "server/jobs/event_log.h"
#include "server/jobs/job_table.h"
#include "server/rpc/answer.h"
#include "server/rpc/job_requests.h"

namespace thaw {

grpc::Status FineTuneServiceImpl::CreateJob(grpc::ServerContext* context,
                                            const v1::CreateJobRequest* request,
                                            v1::Job* response) {
  return Answer(parts_.metrics, "CreateJob", [&]() -> absl::Status {
    THAW_ASSIGN_OR_RETURN(const Caller caller, parts_.authorizer.Authorize(*context, "CreateJob"));
    return Fill(SubmitJob(parts_, caller, *request), response);
  });
}

grpc::Status FineTuneServiceImpl::GetJob(grpc::ServerContext* context,
                                         const v1::GetJobRequest* request, v1::Job* response) {
  return Answer(parts_.metrics, "GetJob", [&]() -> absl::Status {
    THAW_ASSIGN_OR_RETURN(const Caller caller, parts_.authorizer.Authorize(*context, "GetJob"));
    THAW_ASSIGN_OR_RETURN(*response, parts_.store.Read([&](Reader& reader) {
      return thaw::GetJob(reader, caller.scope, request->id());
    }));
    parts_.dispatcher.FillQueue(response);
    return absl::OkStatus();
  });
}

grpc::Status FineTuneServiceImpl::ListJobs(grpc::ServerContext* context,
                                           const v1::ListJobsRequest* request,
                                           v1::ListJobsResponse* response) {
  return Answer(parts_.metrics, "ListJobs", [&]() -> absl::Status {
    THAW_ASSIGN_OR_RETURN(const Caller caller, parts_.authorizer.Authorize(*context, "ListJobs"));
    THAW_ASSIGN_OR_RETURN(const int size, PageSize("page_size", request->page_size(), 1000, 50));
    JobFilter filter;
    filter.owner = caller.scope.empty() ? request->owner() : caller.scope;
    for (const int state : request->states()) {
      filter.states.push_back(static_cast<v1::Job::State>(state));
    }
    filter.labels.insert(request->labels().begin(), request->labels().end());
    THAW_ASSIGN_OR_RETURN(auto page, parts_.store.Read([&](Reader& reader) {
      return thaw::ListJobs(reader, filter, size, request->page_token());
    }));
    for (v1::Job& job : page.items) {
      parts_.dispatcher.FillQueue(&job);
      *response->add_jobs() = std::move(job);
    }
    response->set_next_page_token(page.next_page_token);
    return absl::OkStatus();
  });
}

grpc::Status FineTuneServiceImpl::Change(grpc::ServerContext* context, const char* rpc,
                                         JobChange change, const std::string& id,
                                         v1::Job* response) {
  return Answer(parts_.metrics, rpc, [&]() -> absl::Status {
    THAW_ASSIGN_OR_RETURN(const Caller caller, parts_.authorizer.Authorize(*context, rpc));
    THAW_ASSIGN_OR_RETURN(*response, parts_.store.Write([&](Transaction& transaction) {
      return change(transaction, caller.scope, id);
    }));
    parts_.dispatcher.FillQueue(response);
    return absl::OkStatus();
  });
}

grpc::Status FineTuneServiceImpl::CancelJob(grpc::ServerContext* context,
                                            const v1::CancelJobRequest* request,
                                            v1::Job* response) {
  return Change(context, "CancelJob", &thaw::CancelJob, request->id(), response);
}

grpc::Status FineTuneServiceImpl::PauseJob(grpc::ServerContext* context,
                                           const v1::PauseJobRequest* request, v1::Job* response) {
  return Change(context, "PauseJob", &thaw::PauseJob, request->id(), response);
}

grpc::Status FineTuneServiceImpl::ResumeJob(grpc::ServerContext* context,
                                            const v1::ResumeJobRequest* request,
                                            v1::Job* response) {
  return Change(context, "ResumeJob", &thaw::ResumeJob, request->id(), response);
}

grpc::Status FineTuneServiceImpl::UpdateJob(grpc::ServerContext* context,
                                            const v1::UpdateJobRequest* request,
                                            v1::Job* response) {
  return Answer(parts_.metrics, "UpdateJob", [&]() -> absl::Status {
    THAW_ASSIGN_OR_RETURN(const Caller caller, parts_.authorizer.Authorize(*context, "UpdateJob"));
    return Fill(ChangeJob(parts_, caller, *request), response);
  });
}

grpc::Status FineTuneServiceImpl::SteerJob(grpc::ServerContext* context,
                                           const v1::SteerJobRequest* request, v1::Job* response) {
  return Answer(parts_.metrics, "SteerJob", [&]() -> absl::Status {
    THAW_ASSIGN_OR_RETURN(const Caller caller, parts_.authorizer.Authorize(*context, "SteerJob"));
    return Fill(ActOnJob(parts_, caller, *request), response);
  });
}

grpc::Status FineTuneServiceImpl::ListJobEvents(grpc::ServerContext* context,
                                                const v1::ListJobEventsRequest* request,
                                                v1::ListJobEventsResponse* response) {
  return Answer(parts_.metrics, "ListJobEvents", [&]() -> absl::Status {
    THAW_ASSIGN_OR_RETURN(const Caller caller,
                          parts_.authorizer.Authorize(*context, "ListJobEvents"));
    THAW_ASSIGN_OR_RETURN(const int size, PageSize("page_size", request->page_size(), 1000, 100));
    THAW_ASSIGN_OR_RETURN(auto events, parts_.store.Read([&](Reader& reader) {
      return EventsAfter(reader, caller.scope, request->id(), request->after_sequence(), size);
    }));
    // A page stays below what a client takes in one message.
    size_t bytes = 0;
    for (v1::Event& event : events) {
      bytes += event.ByteSizeLong();
      if (bytes > (3u << 20) && response->events_size() > 0) break;
      *response->add_events() = std::move(event);
    }
    return absl::OkStatus();
  });
}

grpc::Status FineTuneServiceImpl::ReadJobLog(grpc::ServerContext* context,
                                             const v1::ReadJobLogRequest* request,
                                             v1::ReadJobLogResponse* response) {
  return Answer(parts_.metrics, "ReadJobLog", [&]() -> absl::Status {
    THAW_ASSIGN_OR_RETURN(const Caller caller, parts_.authorizer.Authorize(*context, "ReadJobLog"));
    return Fill(ReadLog(parts_, caller, *request), response);
  });
}

grpc::Status FineTuneServiceImpl::QueryMetrics(grpc::ServerContext* context,
                                               const v1::QueryMetricsRequest* request,
                                               v1::QueryMetricsResponse* response) {
  return Answer(parts_.metrics, "QueryMetrics", [&]() -> absl::Status {
    THAW_ASSIGN_OR_RETURN(const Caller caller,
                          parts_.authorizer.Authorize(*context, "QueryMetrics"));
    THAW_RETURN_IF_ERROR(PageSize("max_points", request->max_points(), 10'000, 1000).status());
    return Fill(parts_.store.Read([&](Reader& reader) {
      return thaw::QueryMetrics(reader, caller.scope, *request);
    }),
                response);
  });
}

grpc::ServerWriteReactor<v1::WatchJobResponse>* FineTuneServiceImpl::WatchJob(
    grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) {
  return streams_.Watch(parts_.authorizer.Authorize(*context, "WatchJob"), context, *request);
}

}  // namespace thaw
