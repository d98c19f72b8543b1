#include "server/metrics/service_metrics.h"

namespace thaw {
namespace {

const prometheus::Histogram::BucketBoundaries kRpcBuckets = {
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
const prometheus::Histogram::BucketBoundaries kCommitBuckets = {
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5};
const prometheus::Histogram::BucketBoundaries kScheduleBuckets = {
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1};
const prometheus::Histogram::BucketBoundaries kWaitBuckets = {
    0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400};

}  // namespace

ServiceMetrics::ServiceMetrics(const std::vector<std::string>& rpcs)
    : registry_(std::make_shared<prometheus::Registry>()),
      rpc_seconds_(
          prometheus::BuildHistogram()
              .Name("thaw_rpc_seconds")
              .Help(
                  "Time from a call's arrival to its end; a watch or a Sync lasts long by nature.")
              .Register(*registry_)),
      rpcs_(prometheus::BuildCounter()
                .Name("thaw_rpcs_total")
                .Help("Calls that ended, by method and status code.")
                .Register(*registry_)),
      commit_seconds_(&prometheus::BuildHistogram()
                           .Name("thaw_commit_seconds")
                           .Help("Time of one transaction of the store, fsync included.")
                           .Register(*registry_)
                           .Add({}, kCommitBuckets)),
      queue_wait_seconds_(&prometheus::BuildHistogram()
                               .Name("thaw_queue_wait_seconds")
                               .Help("Time that jobs spent QUEUED before an attempt began.")
                               .Register(*registry_)
                               .Add({}, kWaitBuckets)),
      schedule_seconds_(&prometheus::BuildHistogram()
                             .Name("thaw_schedule_seconds")
                             .Help("Time of one run of the scheduler over workers and queue.")
                             .Register(*registry_)
                             .Add({}, kScheduleBuckets)),
      sync_commit_seconds_(
          &prometheus::BuildHistogram()
               .Name("thaw_sync_commit_seconds")
               .Help("Time from a Sync's arrival until what it reported was committed.")
               .Register(*registry_)
               .Add({}, kCommitBuckets)) {
  auto& bytes = prometheus::BuildCounter()
                    .Name("thaw_transfer_bytes_total")
                    .Help("Bytes of artifacts sent (read) and received (write).")
                    .Register(*registry_);
  bytes_read_ = &bytes.Add({{"direction", "read"}});
  bytes_written_ = &bytes.Add({{"direction", "write"}});
  watchers_ = &prometheus::BuildGauge()
                   .Name("thaw_watchers")
                   .Help("Open WatchJob streams.")
                   .Register(*registry_)
                   .Add({});
  for (const std::string& rpc : rpcs) {
    rpc_seconds_.Add({{"rpc", rpc}}, kRpcBuckets);
    rpcs_.Add({{"rpc", rpc}, {"code", "OK"}});
  }
}

void ServiceMetrics::RecordRpc(const std::string& rpc, const std::string& code, double seconds) {
  rpc_seconds_.Add({{"rpc", rpc}}, kRpcBuckets).Observe(seconds);
  rpcs_.Add({{"rpc", rpc}, {"code", code}}).Increment();
}

}  // namespace thaw
