// What the server counts while it works: calls, commits, waits, bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace thaw {

// Thread-safe; every call is quick and never blocks on anything but a scrape.
class ServiceMetrics {
 public:
  // `rpcs` are the names that RecordRpc will be given; series for success exist from the start, so
  // that rates see the first call.
  explicit ServiceMetrics(const std::vector<std::string>& rpcs);

  // `code` is the status code's name, such as OK or NOT_FOUND.
  void RecordRpc(const std::string& rpc, const std::string& code, double seconds);
  void RecordCommit(double seconds) { commit_seconds_->Observe(seconds); }
  void RecordQueueWait(double seconds) { queue_wait_seconds_->Observe(seconds); }
  void RecordSchedule(double seconds) { schedule_seconds_->Observe(seconds); }
  void RecordSyncCommit(double seconds) { sync_commit_seconds_->Observe(seconds); }
  void AddBytesRead(int64_t bytes) { bytes_read_->Increment(static_cast<double>(bytes)); }
  void AddBytesWritten(int64_t bytes) { bytes_written_->Increment(static_cast<double>(bytes)); }
  void AddWatchers(int change) { watchers_->Increment(change); }

  std::shared_ptr<prometheus::Collectable> collectable() const { return registry_; }

 private:
  const std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Family<prometheus::Histogram>& rpc_seconds_;
  prometheus::Family<prometheus::Counter>& rpcs_;
  prometheus::Histogram* commit_seconds_;
  prometheus::Histogram* queue_wait_seconds_;
  prometheus::Histogram* schedule_seconds_;
  prometheus::Histogram* sync_commit_seconds_;
  prometheus::Counter* bytes_read_;
  prometheus::Counter* bytes_written_;
  prometheus::Gauge* watchers_;
};

}  // namespace thaw
