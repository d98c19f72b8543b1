// Twelve gauges for each running job, gone two minutes after it ends: the last values are seen, and
// no series outlives its job.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "prometheus/collectable.h"
#include "server/jobs/store.h"
#include "thaw/v1/job.pb.h"

namespace thaw {

// Thread-safe. `store` and `clock` outlive it.
class JobMetrics : public prometheus::Collectable {
 public:
  // At most this many jobs are shown, the oldest ids first: a scrape stays small whatever runs.
  static constexpr size_t kMaxJobs = 500;

  JobMetrics(Store& store, const Clock& clock) : store_(store), clock_(clock) {}
  // Begins to hear of jobs. Once, before the first scrape.
  absl::Status Start();
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  void Note(const JobView& job) THAW_REQUIRES(mutex_);

  Store& store_;
  const Clock& clock_;
  mutable Mutex mutex_;
  // Jobs that run, 0, and those that ended lately, when; wall clock.
  mutable std::map<std::string, int64_t> shown_ THAW_GUARDED_BY(mutex_);
  Subscription changes_;
};

// The gauges of `jobs`, one family each.
std::vector<prometheus::MetricFamily> JobFamilies(const std::vector<v1::Job>& jobs);

}  // namespace thaw
