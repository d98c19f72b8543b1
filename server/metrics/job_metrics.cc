#include "server/metrics/job_metrics.h"

#include <functional>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "server/jobs/job_row.h"
#include "server/jobs/job_table.h"
#include "server/jobs/state_machine.h"
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

void JobMetrics::Note(const JobView& job) {
  if (HasAttempt(job.state)) {
    shown_[job.id] = 0;
    return;
  }
  const auto shown = shown_.find(job.id);
  if (shown == shown_.end()) return;
  if (IsTerminal(job.state)) {
    shown->second = clock_.WallMicros();
  } else {
    shown_.erase(shown);
  }
}

absl::Status JobMetrics::Start() {
  changes_ = store_.ObserveJobs([this](const std::vector<JobView>& jobs) {
    MutexLock lock(mutex_);
    for (const JobView& job : jobs) Note(job);
  });
  // On the thread that commits: what a later commit changes is heard of after this.
  return store_.Write([this](Transaction& transaction) -> absl::Status {
    THAW_ASSIGN_OR_RETURN(const std::vector<JobView> unfinished, UnfinishedJobs(transaction));
    MutexLock lock(mutex_);
    for (const JobView& job : unfinished) Note(job);
    return absl::OkStatus();
  });
}

std::vector<prometheus::MetricFamily> JobMetrics::Collect() const {
  std::vector<std::string> ids;
  {
    MutexLock lock(mutex_);
    const int64_t oldest = clock_.WallMicros() - kShownAfterEndMicros;
    std::erase_if(shown_, [&](const auto& job) { return job.second != 0 && job.second < oldest; });
    for (const auto& [id, ended] : shown_) {
      if (ids.size() == kMaxJobs) break;
      ids.push_back(id);
    }
  }
  std::vector<v1::Job> jobs;
  // Without their specs, which nothing here shows.
  const absl::Status status = store_.Read([&](Reader& reader) {
    for (const std::string& id : ids) {
      const auto row = LoadJob(reader, "", id);
      if (row.ok()) jobs.push_back(ToJob(*row, nullptr));
    }
    return absl::OkStatus();
  });
  if (!status.ok()) THAW_LOG(kWarning, "jobs_not_shown", {"error", status.message()});
  return JobFamilies(jobs);
}

}  // namespace thaw
