#include "server/metrics/job_metrics.h"

#include <functional>
#include <optional>

#include "absl/strings/str_cat.h"
#include "server/jobs/job_table.h"
#include "server/metrics/metric_families.h"

namespace thaw {
namespace {

constexpr int64_t kShownAfterEndMicros = 120'000'000;

bool HasAttempt(v1::Job::State state) {
  return state == v1::Job::RUNNING || state == v1::Job::PAUSING || state == v1::Job::CANCELLING;
}

struct JobGauge {
  const char* name;
  const char* help;
  enum { kPlain, kByPhase, kByMetric } labels;
  std::function<std::optional<double>(const v1::Progress&)> value;
};

std::optional<double> Ratio(int64_t done, int64_t total) {
  if (total <= 0) return std::nullopt;
  return static_cast<double>(done) / static_cast<double>(total);
}

const std::vector<JobGauge>& Gauges() {
  static const auto* const gauges = new std::vector<JobGauge>{
      {"thaw_job_loss", "Loss of the newest optimizer step, per loss unit.", JobGauge::kByPhase,
       [](const v1::Progress& p) { return p.loss(); }},
      {"thaw_job_learning_rate", "Learning rate of the topmost group.", JobGauge::kByPhase,
       [](const v1::Progress& p) { return p.learning_rate(); }},
      {"thaw_job_metric", "Newest value of the evaluation metric.", JobGauge::kByMetric,
       [](const v1::Progress& p) {
         return p.has_metric() ? std::optional<double>(p.metric()) : std::nullopt;
       }},
      {"thaw_job_best_metric", "Best value of the evaluation metric.", JobGauge::kByMetric,
       [](const v1::Progress& p) {
         return p.has_best_metric() ? std::optional<double>(p.best_metric()) : std::nullopt;
       }},
      {"thaw_job_phase", "Phase from 1.", JobGauge::kPlain,
       [](const v1::Progress& p) { return p.phase(); }},
      {"thaw_job_step", "Optimizer steps done.", JobGauge::kPlain,
       [](const v1::Progress& p) { return static_cast<double>(p.step()); }},
      {"thaw_job_epoch", "Passes over the data in this phase.", JobGauge::kPlain,
       [](const v1::Progress& p) { return p.epoch(); }},
      {"thaw_job_progress_ratio", "Share of the work done, 0 to 1, where it is known.",
       JobGauge::kPlain,
       [](const v1::Progress& p) {
         return p.rows_total() > 0 ? Ratio(p.rows_done(), p.rows_total())
                                   : Ratio(p.step(), p.total_steps());
       }},
      {"thaw_job_tokens_per_second", "Tokens trained on per second.", JobGauge::kPlain,
       [](const v1::Progress& p) { return p.tokens_per_second(); }},
      {"thaw_job_memory_bytes", "Resident memory of the trainer.", JobGauge::kPlain,
       [](const v1::Progress& p) { return static_cast<double>(p.memory_bytes()); }},
      {"thaw_job_trainable_ratio", "Share of all parameters that are trainable now.",
       JobGauge::kPlain, [](const v1::Progress& p) { return p.trainable_share(); }},
      {"thaw_job_eta_seconds", "Seconds to the end at the present pace; 0 when not known.",
       JobGauge::kPlain, [](const v1::Progress& p) { return p.eta_seconds(); }},
  };
  return *gauges;
}

}  // namespace

std::vector<prometheus::MetricFamily> JobFamilies(const std::vector<v1::Job>& jobs) {
  std::vector<prometheus::MetricFamily> families;
  for (const JobGauge& gauge : Gauges()) {
    prometheus::MetricFamily family = NewGauge(gauge.name, gauge.help);
    for (const v1::Job& job : jobs) {
      const v1::Progress& progress = job.progress();
      const std::optional<double> value = gauge.value(progress);
      if (!value || (gauge.labels == JobGauge::kByPhase && progress.phase() == 0)) continue;
      MetricLabels labels = {{"job_id", job.id()}};
      if (gauge.labels == JobGauge::kByPhase) {
        labels.emplace_back("phase", absl::StrCat(progress.phase()));
      } else if (gauge.labels == JobGauge::kByMetric) {
        labels.emplace_back("name", progress.metric_name());
      }
      AddSeries(&family, labels, *value);
    }
    families.push_back(std::move(family));
  }
  return families;
}

absl::Status JobMetrics::Start() {
  changes_ = store_.ObserveJobs([this](const std::vector<JobView>& jobs) {
    MutexLock lock(mutex_);
    for (const JobView& job : jobs) {
      if (HasAttempt(job.state)) shown_.insert(job.id);
    }
  });
  auto unfinished = store_.Read([](Reader& reader) { return UnfinishedJobs(reader); });
  if (!unfinished.ok()) return unfinished.status();
  MutexLock lock(mutex_);
  for (const JobView& job : *unfinished) {
    if (HasAttempt(job.state)) shown_.insert(job.id);
  }
  return absl::OkStatus();
}

std::vector<prometheus::MetricFamily> JobMetrics::Collect() const {
  std::set<std::string> ids;
  {
    MutexLock lock(mutex_);
    ids = shown_;
  }
  std::vector<v1::Job> jobs;
  for (const std::string& id : ids) {
    const auto job = store_.Read([&](Reader& reader) { return GetJob(reader, "", id); });
    const bool ended_long_ago =
        job.ok() && job->done() &&
        job->end_time().seconds() * 1'000'000 + kShownAfterEndMicros < clock_.WallMicros();
    if (!job.ok() || ended_long_ago) {
      MutexLock lock(mutex_);
      shown_.erase(id);
    } else if ((job->done() || HasAttempt(job->state())) && jobs.size() < kMaxJobs) {
      jobs.push_back(*job);
    }
  }
  return JobFamilies(jobs);
}

}  // namespace thaw
