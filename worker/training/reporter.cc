#include "worker/training/reporter.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace thaw {
namespace {

constexpr double kBeatInterval = 0.5;  // seconds
constexpr double kSpeedWindow = 10;    // seconds
constexpr size_t kStepRing = 101;
constexpr double kGroupIntervals = 10;  // in intervals between points: they are many
constexpr size_t kMostGroups = 64;

int64_t ResidentBytes() {
  FILE* file = fopen("/proc/self/statm", "re");
  if (file == nullptr) return 0;
  long total = 0, resident = 0;
  const int read = fscanf(file, "%ld %ld", &total, &resident);
  fclose(file);
  return read == 2 ? int64_t{resident} * sysconf(_SC_PAGESIZE) : 0;
}

void AddValue(v1::MetricPoint* point, const std::string& name, double value,
              const std::string& group = "") {
  v1::MetricValue* added = point->add_values();
  added->set_name(name);
  added->set_group(group);
  added->set_value(value);
}

}  // namespace

Reporter::Reporter(ProgressSink* sink, const Clock* clock, double point_interval_seconds)
    : sink_(sink),
      clock_(clock),
      point_interval_seconds_(point_interval_seconds),
      start_micros_(clock->BootMicros()) {}

double Reporter::SecondsSinceStart() const {
  return static_cast<double>(clock_->BootMicros() - start_micros_) * 1e-6;
}

void Reporter::Beat() {
  const double now = SecondsSinceStart();
  if (last_beat_ < 0 || now - last_beat_ >= kBeatInterval) BeatNow();
}

void Reporter::BeatNow() {
  last_beat_ = SecondsSinceStart();
  progress_.set_memory_bytes(ResidentBytes());
  sink_->Beat(progress_, MedianStepSeconds());
}

void Reporter::StepDone(const StepReport& report) {
  const double now = SecondsSinceStart();
  newest_ = report;
  has_unsent_ = true;
  pending_.loss_sum += report.loss_sum;
  pending_.loss_units += report.loss_units;
  if (step_seconds_.size() < kStepRing) {
    step_seconds_.push_back(report.seconds);
  } else {
    step_seconds_[steps_here_ % kStepRing] = report.seconds;
  }
  ++steps_here_;
  if (marks_.empty()) {
    marks_.push_back({now - report.seconds, report.tokens - report.step_tokens});
  }
  marks_.push_back({now, report.tokens});
  while (marks_.size() > 2 && now - marks_[1].seconds > kSpeedWindow) marks_.pop_front();

  progress_.set_learning_rate(report.learning_rate);
  progress_.set_tokens_per_second(TokensPerSecond());
  const int64_t left = progress_.total_steps() - report.step;
  progress_.set_eta_seconds(
      left > 0 ? now / static_cast<double>(steps_here_) * static_cast<double>(left) : 0);
  if (last_point_ < 0 || now - last_point_ >= point_interval_seconds_) FlushPoint();
}

void Reporter::FlushPoint() {
  if (!has_unsent_) return;
  has_unsent_ = false;
  last_point_ = SecondsSinceStart();
  v1::Event event;
  v1::MetricPoint* point = event.mutable_metric_points()->add_points();
  point->set_step(newest_.step);
  point->set_phase(newest_.phase);
  point->set_seconds(last_point_);
  AddValue(point, "loss", newest_.loss_sum / static_cast<double>(newest_.loss_units));
  AddValue(point, "learning_rate", newest_.learning_rate);
  AddValue(point, "grad_norm", newest_.gradient_norm);
  AddValue(point, "update_norm", newest_.update_norm);
  AddValue(point, "tokens_per_second", TokensPerSecond());
  AddValue(point, "tokens", static_cast<double>(newest_.tokens));
  AddValue(point, "loss_sum", pending_.loss_sum);
  AddValue(point, "loss_units", static_cast<double>(pending_.loss_units));
  pending_ = {};
  if (last_groups_ < 0 || last_point_ - last_groups_ >= kGroupIntervals * point_interval_seconds_) {
    last_groups_ = last_point_;
    const std::vector<GroupNorms>& norms = newest_.group_norms;
    for (size_t i = norms.size() - std::min(norms.size(), kMostGroups); i < norms.size(); ++i) {
      AddValue(point, "grad_norm", norms[i].gradient, norms[i].group);
      AddValue(point, "update_norm", norms[i].update, norms[i].group);
    }
  }
  Emit(std::move(event));
}

void Reporter::EvaluationDone(const v1::EvaluationEnd& evaluation) {
  FlushPoint();
  v1::Event points;
  v1::MetricPoint* point = points.mutable_metric_points()->add_points();
  point->set_step(evaluation.step());
  point->set_phase(evaluation.phase());
  point->set_seconds(SecondsSinceStart());
  const std::map<std::string, double> sorted(evaluation.values().begin(),
                                             evaluation.values().end());
  for (const auto& [name, value] : sorted) AddValue(point, "eval_" + name, value);
  Emit(std::move(points));
  v1::Event event;
  *event.mutable_evaluation_end() = evaluation;
  Emit(std::move(event));
}

void Reporter::Emit(v1::Event event) {
  const int64_t micros = clock_->WallMicros();
  event.mutable_time()->set_seconds(micros / 1'000'000);
  event.mutable_time()->set_nanos(static_cast<int32_t>(micros % 1'000'000 * 1000));
  sink_->Emit(event);
}

void Reporter::Warn(const std::string& reason, const std::string& message) {
  v1::Event event;
  event.mutable_warning()->set_reason(reason);
  event.mutable_warning()->set_message(message);
  Emit(std::move(event));
}

void Reporter::Log(const std::string& text) {
  v1::Event event;
  event.mutable_log_line()->set_text(text);
  Emit(std::move(event));
}

void Reporter::CheckpointReady(const internal::CheckpointReady& checkpoint) {
  sink_->CheckpointReady(checkpoint);
}

double Reporter::MedianStepSeconds() const {
  if (step_seconds_.empty()) return 0;
  std::vector<double> sorted = step_seconds_;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  return *middle;
}

double Reporter::TokensPerSecond() const {
  if (marks_.size() < 2) return 0;
  const double seconds = marks_.back().seconds - marks_.front().seconds;
  return seconds > 0 ? static_cast<double>(marks_.back().tokens - marks_.front().tokens) / seconds
                     : 0;
}

}  // namespace thaw
