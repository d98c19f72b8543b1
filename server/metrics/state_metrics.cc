#include "server/metrics/state_metrics.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "common/base/files.h"
#include "server/metrics/metric_families.h"

namespace thaw {

StateMetrics::StateMetrics(const Store& store, const Dispatcher& dispatcher,
                           ArtifactStore& artifacts, const DiskGuard& guard, std::string data_dir,
                           std::string version)
    : store_(store),
      dispatcher_(dispatcher),
      artifacts_(artifacts),
      guard_(guard),
      data_dir_(std::move(data_dir)),
      version_(std::move(version)) {}

std::vector<prometheus::MetricFamily> StateMetrics::Collect() const {
  const StoreStats store = store_.Stats();
  const DispatcherStats dispatcher = dispatcher_.Stats();
  std::vector<prometheus::MetricFamily> families;
  const auto gauge = [&](const char* name, const char* help) -> prometheus::MetricFamily* {
    return &families.emplace_back(NewGauge(name, help));
  };
  const auto counter = [&](const char* name, const char* help) -> prometheus::MetricFamily* {
    return &families.emplace_back(NewCounter(name, help));
  };

  AddSeries(gauge("thaw_build_info", "Always 1; the label says which version runs."),
            {{"version", version_}}, 1);
  AddSeries(gauge("thaw_queue_depth", "Jobs that are QUEUED."), {},
            static_cast<double>(dispatcher.queued));
  AddSeries(gauge("thaw_queue_oldest_seconds", "How long the oldest QUEUED job has waited."), {},
            dispatcher.oldest_wait_seconds);
  prometheus::MetricFamily* jobs = gauge("thaw_jobs", "Jobs by state.");
  for (int state = v1::Job::QUEUED; state <= v1::Job::CANCELLED; ++state) {
    const auto found = store.jobs.find(static_cast<v1::Job::State>(state));
    AddSeries(
        jobs,
        {{"state", absl::AsciiStrToLower(v1::Job::State_Name(static_cast<v1::Job::State>(state)))}},
        found == store.jobs.end() ? 0 : static_cast<double>(found->second));
  }

  const std::vector<v1::WorkerStatus> workers = dispatcher_.ListWorkers();
  int connected = 0, draining = 0, lost = 0;
  for (const v1::WorkerStatus& worker : workers) {
    ++(!worker.connected() ? lost : worker.draining() ? draining : connected);
  }
  prometheus::MetricFamily* states =
      gauge("thaw_workers", "Workers: connected (taking work), draining, lost (silent).");
  AddSeries(states, {{"state", "connected"}}, connected);
  AddSeries(states, {{"state", "draining"}}, draining);
  AddSeries(states, {{"state", "lost"}}, lost);
  prometheus::MetricFamily slots = NewGauge("thaw_worker_slots", "Attempts that a worker can run.");
  prometheus::MetricFamily attempts =
      NewGauge("thaw_worker_attempts", "Attempts that a worker holds.");
  for (const v1::WorkerStatus& worker : workers) {
    if (!worker.connected()) continue;
    AddSeries(&slots, {{"worker", worker.worker()}}, worker.offer().slots());
    AddSeries(&attempts, {{"worker", worker.worker()}}, worker.jobs_size());
  }
  families.push_back(std::move(slots));
  families.push_back(std::move(attempts));

  AddSeries(counter("thaw_leases_lost_total", "Workers whose lease ran out with attempts."), {},
            static_cast<double>(dispatcher.leases_lost));
  AddSeries(counter("thaw_writes_fenced_total", "Writes refused because their attempt was stale."),
            {}, static_cast<double>(store.fenced_writes));
  AddSeries(gauge("thaw_store_bytes", "Size of the store's database and its log."), {},
            static_cast<double>(store.database_bytes));
  prometheus::MetricFamily* bytes =
      gauge("thaw_artifact_bytes", "Bytes of published artifacts by kind.");
  for (const auto& [kind, size] : artifacts_.BytesByKind()) {
    AddSeries(bytes, {{"kind", kind}}, static_cast<double>(size));
  }
  prometheus::MetricFamily* free =
      gauge("thaw_disk_free_bytes", "Bytes free on the disk that holds a directory.");
  AddSeries(free, {{"dir", "data"}}, static_cast<double>(FreeBytes(data_dir_).value_or(0)));
  AddSeries(free, {{"dir", "artifacts"}}, static_cast<double>(artifacts_.budget().FreeOnDisk()));
  AddSeries(gauge("thaw_disk_short", "1 while nothing starts because a disk is short, else 0."), {},
            guard_.IsShort() ? 1 : 0);
  return families;
}

}  // namespace thaw
