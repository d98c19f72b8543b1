#include "worker/agent/event_filter.h"

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/clean_text.h"

namespace thaw {
namespace {

constexpr size_t kLongestText = 4096;
constexpr size_t kLongestName = 64;
constexpr int kMostValues = 256;
// A Sync carries 512 KiB of events, and one event must fit beside others.
constexpr size_t kLargestEvent = 384 << 10;
constexpr int kNamesKept = 2000;
constexpr int64_t kMostGeneratedBytes = 1 << 20;
// 64 phases of 10,000,000 steps are the most that a job can ask for.
constexpr int64_t kMostSteps = 1'000'000'000;
// A trainer runs on our machine: what it says of the time can be off by a wait, not by a day.
constexpr int64_t kMostClockSkewSeconds = 86400;

void Clean(std::string* text, size_t longest = kLongestText) { *text = CleanText(*text, longest); }

bool IsSeriesName(const std::string& name) {
  if (name.empty() || name.size() > kLongestName) return false;
  for (const char c : name) {
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_')) return false;
  }
  return true;
}

absl::Status CheckPoints(const v1::MetricPoints& points, int64_t* last_step) {
  if (points.points().empty()) return absl::InvalidArgumentError("metric points without a point");
  for (const v1::MetricPoint& point : points.points()) {
    // Loss and evaluation of one step come apart.
    if (point.step() < *last_step || point.step() > kMostSteps || !std::isfinite(point.seconds())) {
      return absl::InvalidArgumentError(
          absl::StrCat("a metric point of step ", point.step(), " after one of step ", *last_step));
    }
    *last_step = point.step();
    if (point.values_size() > kMostValues) {
      return absl::InvalidArgumentError(
          absl::StrCat("a metric point of ", point.values_size(), " values"));
    }
    for (const v1::MetricValue& value : point.values()) {
      if (!IsSeriesName(value.name()) || CleanText(value.group(), kLongestName) != value.group()) {
        return absl::InvalidArgumentError("a metric without a proper name");
      }
      if (!std::isfinite(value.value())) {
        return absl::InvalidArgumentError(
            absl::StrCat(value.name(), " is not finite at step ", point.step()));
      }
    }
  }
  return absl::OkStatus();
}

// What a model writes may hold anything but half characters; whoever shows it makes it harmless.
absl::Status CheckText(const v1::GeneratedText& piece) {
  if (piece.row() < 0 || piece.tokens() < 0 || piece.text().size() > kLongestText) {
    return absl::InvalidArgumentError(
        absl::StrCat("a piece of ", piece.text().size(), " bytes of text of row ", piece.row()));
  }
  const std::string& reason = piece.finish_reason();
  if (!reason.empty() && reason != "stop" && reason != "length" && reason != "end") {
    return absl::InvalidArgumentError("generated text with an unknown finish_reason");
  }
  return absl::OkStatus();
}

// A time that no calendar knows cannot be shown.
void CorrectTime(int64_t now_micros, google::protobuf::Timestamp* time) {
  const int64_t now = now_micros / 1'000'000;
  const bool sound = time->seconds() >= now - kMostClockSkewSeconds &&
                     time->seconds() <= now + kMostClockSkewSeconds && time->nanos() >= 0 &&
                     time->nanos() <= 999'999'999;
  if (sound) return;
  time->set_seconds(now);
  time->set_nanos(static_cast<int32_t>(now_micros % 1'000'000 * 1000));
}

// Names of tensors. Those of huge models would not fit; the count of parameters stays exact.
void CleanNames(google::protobuf::RepeatedPtrField<std::string>* names) {
  if (names->size() > kNamesKept) names->DeleteSubrange(kNamesKept, names->size() - kNamesKept);
  for (std::string& name : *names) Clean(&name);
}

}  // namespace

absl::Status EventFilter::Check(v1::Event* event) {
  event->clear_sequence();
  event->clear_attempt();
  CorrectTime(clock_.WallMicros(), event->mutable_time());
  switch (event->kind_case()) {
    case v1::Event::kMetricPoints:
      if (absl::Status status = CheckPoints(event->metric_points(), &point_step_); !status.ok())
        return status;
      break;
    case v1::Event::kPhaseStart: {
      v1::PhaseStart* phase = event->mutable_phase_start();
      Clean(phase->mutable_name());
      CleanNames(phase->mutable_trainable_names());
      CleanNames(phase->mutable_newly_trainable_names());
      for (v1::GroupRate& rate : *phase->mutable_rates()) {
        Clean(rate.mutable_group(), kLongestName);
        if (!std::isfinite(rate.learning_rate()))
          return absl::InvalidArgumentError("a learning rate is not finite");
      }
      break;
    }
    case v1::Event::kEvaluationEnd:
      if (!std::isfinite(event->evaluation_end().epoch()))
        return absl::InvalidArgumentError("an evaluation whose epoch is not finite");
      for (const auto& [name, value] : event->evaluation_end().values()) {
        if (!IsSeriesName(name) || !std::isfinite(value)) {
          return absl::InvalidArgumentError(
              "an evaluation with an improper name or a value that is not finite");
        }
      }
      break;
    case v1::Event::kWarning:
      Clean(event->mutable_warning()->mutable_reason(), kLongestName);
      Clean(event->mutable_warning()->mutable_message());
      break;
    case v1::Event::kLogLine:
      Clean(event->mutable_log_line()->mutable_text());
      break;
    case v1::Event::kSteeringApplied: {
      const v1::SteeringRecord& applied = event->steering_applied();
      if (applied.number() < 0 || applied.step() < 0 || applied.step() > kMostSteps ||
          !std::isfinite(applied.action().scale_rate()) ||
          !std::isfinite(applied.action().extend_epochs())) {
        return absl::InvalidArgumentError(
            absl::StrCat("number ", applied.number(), " applied after step ", applied.step()));
      }
      break;
    }
    case v1::Event::kGeneratedText:
      if (absl::Status status = CheckText(event->generated_text()); !status.ok()) return status;
      text_bytes_ += static_cast<int64_t>(event->ByteSizeLong());
      if (text_bytes_ > kMostGeneratedBytes) event->clear_kind();
      break;
    default:
      return absl::InvalidArgumentError("an event of a kind that is not a trainer's to send");
  }
  if (event->ByteSizeLong() > kLargestEvent) {
    return absl::InvalidArgumentError(
        absl::StrCat("an event of ", event->ByteSizeLong(), " bytes"));
  }
  return absl::OkStatus();
}

absl::Status EventFilter::Check(v1::Progress* progress) {
  if (progress->step() < progress_step_ || progress->step() > kMostSteps) {
    return absl::InvalidArgumentError(
        absl::StrCat("step ", progress->step(), " after step ", progress_step_));
  }
  progress_step_ = progress->step();
  const auto finite = [](double value) { return std::isfinite(value) ? value : 0; };
  progress->set_epoch(finite(progress->epoch()));
  progress->set_loss(finite(progress->loss()));
  if (progress->has_metric()) progress->set_metric(finite(progress->metric()));
  if (progress->has_best_metric()) progress->set_best_metric(finite(progress->best_metric()));
  progress->set_learning_rate(finite(progress->learning_rate()));
  progress->set_tokens_per_second(finite(progress->tokens_per_second()));
  progress->set_eta_seconds(finite(progress->eta_seconds()));
  progress->set_trainable_share(finite(progress->trainable_share()));
  Clean(progress->mutable_phase_name());
  Clean(progress->mutable_metric_name(), kLongestName);
  return absl::OkStatus();
}

}  // namespace thaw
