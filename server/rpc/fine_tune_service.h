#pragma once

#include "server/rpc/server_parts.h"
#include "server/rpc/watch_streams.h"
#include "thaw/v1/fine_tune_service.grpc.pb.h"

namespace thaw {

// FineTuneService as fine_tune_service.proto says. Blocking calls, but for WatchJob, which is a
// reactor.
class FineTuneServiceImpl final
    : public v1::FineTuneService::WithCallbackMethod_WatchJob<v1::FineTuneService::Service> {
 public:
  FineTuneServiceImpl(const ServerParts& parts, WatchStreams& streams)
      : parts_(parts), streams_(streams) {}

  grpc::Status CreateJob(grpc::ServerContext* context, const v1::CreateJobRequest* request,
                         v1::Job* response) override;
  grpc::Status GetJob(grpc::ServerContext* context, const v1::GetJobRequest* request,
                      v1::Job* response) override;
  grpc::Status ListJobs(grpc::ServerContext* context, const v1::ListJobsRequest* request,
                        v1::ListJobsResponse* response) override;
  grpc::Status CancelJob(grpc::ServerContext* context, const v1::CancelJobRequest* request,
                         v1::Job* response) override;
  grpc::Status PauseJob(grpc::ServerContext* context, const v1::PauseJobRequest* request,
                        v1::Job* response) override;
  grpc::Status ResumeJob(grpc::ServerContext* context, const v1::ResumeJobRequest* request,
                         v1::Job* response) override;
  grpc::Status UpdateJob(grpc::ServerContext* context, const v1::UpdateJobRequest* request,
                         v1::Job* response) override;
  grpc::Status SteerJob(grpc::ServerContext* context, const v1::SteerJobRequest* request,
                        v1::Job* response) override;
  grpc::Status ListJobEvents(grpc::ServerContext* context, const v1::ListJobEventsRequest* request,
                             v1::ListJobEventsResponse* response) override;
  grpc::Status ReadJobLog(grpc::ServerContext* context, const v1::ReadJobLogRequest* request,
                          v1::ReadJobLogResponse* response) override;
  grpc::Status QueryMetrics(grpc::ServerContext* context, const v1::QueryMetricsRequest* request,
                            v1::QueryMetricsResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchJobResponse>* WatchJob(
      grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) override;

 private:
  using JobChange = absl::StatusOr<v1::Job> (*)(Transaction&, const std::string&,
                                                const std::string&);
  grpc::Status Change(grpc::ServerContext* context, const char* rpc, JobChange change,
                      const std::string& id, v1::Job* response);

  const ServerParts& parts_;
  WatchStreams& streams_;
};

}  // namespace thaw
