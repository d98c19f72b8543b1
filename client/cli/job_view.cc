#include "client/cli/job_view.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/format.h"
#include "client/cli/steering_words.h"
#include "client/cli/thaw_view.h"

namespace thaw {
namespace {

constexpr int kBarColumns = 24;
constexpr int kPlotHeight = 10;
constexpr int kMostConfusedLabels = 8;

// Share of the way, by rows for a prediction, by steps for a training; negative if not known.
double ShareDone(const v1::Progress& progress) {
  if (progress.rows_total() > 0) {
    return static_cast<double>(progress.rows_done()) / static_cast<double>(progress.rows_total());
  }
  if (progress.total_steps() <= 0) return -1;
  return static_cast<double>(progress.step()) / static_cast<double>(progress.total_steps());
}

std::string OfTotal(int64_t done, int64_t total) {
  return total > 0 ? absl::StrCat(FormatCount(done), "/", FormatCount(total)) : FormatCount(done);
}

std::string ShortRate(double rate) { return absl::StrCat("lr ", FormatNumber(rate)); }

}  // namespace

std::string ConfusionText(const v1::ConfusionMatrix& confusion) {
  const int labels = confusion.labels_size();
  if (labels == 0 || labels > kMostConfusedLabels || confusion.counts_size() != labels * labels) {
    return "";
  }
  std::vector<std::vector<std::string>> rows = {{"label"}};
  for (const std::string& label : confusion.labels()) {
    rows[0].push_back(absl::StrCat(">as ", Clip(Printable(label), 16)));
    rows.push_back({Clip(Printable(label), 24)});
  }
  for (int i = 0; i < labels * labels; ++i) {
    rows[static_cast<size_t>(1 + i / labels)].push_back(FormatCount(confusion.counts(i)));
  }
  return absl::StrCat("validation rows by label and answer\n", Table(rows));
}

std::string StateName(v1::Job::State state) { return v1::Job::State_Name(state); }

std::string ProgressLine(const v1::Progress& progress, int width) {
  std::vector<std::string> parts;
  if (progress.phase_count() > 0) {
    parts.push_back(absl::StrCat(progress.phase(), "/", progress.phase_count(), " ",
                                 Clip(Printable(progress.phase_name()), 20)));
  }
  const double share = ShareDone(progress);
  if (share >= 0) {
    parts.push_back(
        absl::StrCat(Bar(share, kBarColumns), " ", static_cast<int>(100 * share), " %"));
  }
  if (progress.rows_total() > 0) {
    parts.push_back(absl::StrCat("row ", OfTotal(progress.rows_done(), progress.rows_total())));
  } else {
    parts.push_back(absl::StrCat("step ", OfTotal(progress.step(), progress.total_steps())));
    if (progress.step() > 0) parts.push_back(absl::StrCat("loss ", FormatNumber(progress.loss())));
  }
  if (progress.has_metric()) {
    const std::string& name = progress.metric_name();
    parts.push_back(absl::StrCat(Printable(name), " ", FormatMetric(name, progress.metric())));
    if (progress.has_best_metric() && progress.best_metric() != progress.metric()) {
      parts.back() += absl::StrCat(" (best ", FormatMetric(name, progress.best_metric()), ")");
    }
  }
  if (progress.eta_seconds() > 0) {
    parts.push_back(absl::StrCat("ETA ", FormatDuration(progress.eta_seconds())));
  }
  if (progress.tokens_per_second() > 0) {
    parts.push_back(
        absl::StrCat(FormatCount(static_cast<int64_t>(progress.tokens_per_second())), " tok/s"));
  }
  if (progress.learning_rate() > 0) parts.push_back(ShortRate(progress.learning_rate()));
  std::string line;
  for (const std::string& part : parts) {
    const std::string longer = line.empty() ? part : absl::StrCat(line, "  ", part);
    if (Columns(longer) > width && !line.empty()) break;
    line = longer;
  }
  return Clip(line, width);
}

void JobView::Show(const v1::WatchJobResponse& message) {
  switch (message.message_case()) {
    case v1::WatchJobResponse::kSnapshot: {
      const v1::Job& job = message.snapshot();
      const std::string reason = Printable(job.state_reason());
      console_->Line(
          absl::StrCat(job.id(), "  ", StateName(job.state()), reason.empty() ? "" : ": ", reason));
      if (!job.done() && job.progress().step() > 0) ShowProgress(job.progress());
      break;
    }
    case v1::WatchJobResponse::kEvent:
      ShowEvent(message.event());
      break;
    case v1::WatchJobResponse::kHeartbeat:
    case v1::WatchJobResponse::MESSAGE_NOT_SET:
      break;
  }
  if (message.has_progress()) ShowProgress(message.progress());
}

void JobView::ShowEvent(const v1::Event& event) {
  switch (event.kind_case()) {
    case v1::Event::kStateChange:
      ShowStateChange(event.state_change());
      break;
    case v1::Event::kMetricPoints:
      for (const v1::MetricPoint& point : event.metric_points().points()) {
        for (const v1::MetricValue& value : point.values()) {
          if (value.name() == "loss" && value.group().empty()) {
            losses_.push_back({point.step(), value.value()});
          }
        }
      }
      break;
    case v1::Event::kPhaseStart:
      ShowPhase(event.phase_start());
      break;
    case v1::Event::kEvaluationEnd:
      ShowEvaluation(event.evaluation_end());
      break;
    case v1::Event::kWarning:
      console_->Line(absl::StrCat("warning: ", Printable(event.warning().message())));
      break;
    case v1::Event::kLogLine:
      console_->Line(Printable(event.log_line().text()));
      break;
    case v1::Event::kGeneratedText:
      ShowText(event.generated_text());
      break;
    case v1::Event::kRolledBack: {
      const int64_t step = event.rolled_back().to_step();
      console_->Line(absl::StrCat("goes on from the checkpoint of step ", FormatCount(step)));
      losses_.erase(std::remove_if(losses_.begin(), losses_.end(),
                                   [&](const PlotPoint& point) { return point.step > step; }),
                    losses_.end());
      phases_.erase(std::remove_if(phases_.begin(), phases_.end(),
                                   [&](const PlotMark& mark) { return mark.step > step; }),
                    phases_.end());
      thawed_.erase(
          std::remove_if(thawed_.begin(), thawed_.end(),
                         [&](const v1::PhaseStart& phase) { return phase.step() >= step; }),
          thawed_.end());
      break;
    }
    case v1::Event::kSteeringAsked:
      console_->Line(AskedWords(event.steering_asked()));
      break;
    case v1::Event::kSteeringApplied:
      console_->Line(AppliedWords(event.steering_applied()));
      break;
    case v1::Event::kCheckpointCommitted:
    case v1::Event::kJobUpdated:
    case v1::Event::KIND_NOT_SET:
      break;
  }
}

void JobView::ShowText(const v1::GeneratedText& piece) {
  const std::string end =
      piece.done() ? absl::StrCat(" (", Printable(piece.finish_reason()), ")") : "";
  console_->Line(absl::StrCat("row ", piece.row(), ": ", Printable(piece.text()), end));
}

void JobView::ShowPhase(const v1::PhaseStart& phase) {
  for (const std::string& line : PhaseLines(phase)) console_->Line(line);
  const std::string label = absl::StrCat(phase.phase());
  if (!phases_.empty() && phases_.back().label == label) return;
  phases_.push_back({phase.step() + 1, label});
  // The picture needs the groups and their rates alone.
  v1::PhaseStart drawn = phase;
  drawn.clear_trainable_names();
  drawn.clear_newly_trainable_names();
  thawed_.push_back(std::move(drawn));
}

void JobView::ShowEvaluation(const v1::EvaluationEnd& evaluation) {
  if (evaluation.best()) confusion_ = evaluation.confusion();
  std::vector<std::string> values;
  for (const auto& [name, value] :
       std::map<std::string, double>(evaluation.values().begin(), evaluation.values().end())) {
    values.push_back(absl::StrCat(Printable(name), " ", FormatMetric(name, value)));
  }
  console_->Line(absl::StrCat("  step ", FormatCount(evaluation.step()), ": validation ",
                              absl::StrJoin(values, ", "), evaluation.best() ? "  (best)" : ""));
}

void JobView::ShowStateChange(const v1::StateChange& change) {
  std::string line = StateName(change.to());
  if (!change.worker().empty()) absl::StrAppend(&line, " on ", Printable(change.worker()));
  if (!change.reason().empty()) absl::StrAppend(&line, ": ", Printable(change.reason()));
  console_->Line(line);
}

void JobView::ShowProgress(const v1::Progress& progress) {
  if (console_->terminal()) {
    console_->Status(ProgressLine(progress, console_->width() - 1));
    return;
  }
  const double share = ShareDone(progress);
  const int twentieth =
      share < 0 ? static_cast<int>(progress.step() / 50) : static_cast<int>(20 * share);
  if (twentieth <= twentieth_ || (progress.step() == 0 && progress.rows_done() == 0)) return;
  twentieth_ = twentieth;
  console_->Line(absl::StrCat("  ", ProgressLine(progress, console_->width())));
}

void JobView::ShowEnd(const v1::Job& job) {
  console_->ClearStatus();
  const std::string plot =
      PlotCurve(Smoothed(losses_), phases_, std::min(console_->width(), 90), kPlotHeight);
  if (!plot.empty()) console_->Line(absl::StrCat("loss by step, smoothed; phases below\n", plot));
  const std::string confusion = ConfusionText(confusion_);
  if (!confusion.empty()) console_->Line(confusion);
  if (thawed_.size() > 1) {
    console_->Line("what trained in each phase, from the embeddings to the head, by rate");
    for (const std::string& line : ThawPicture(thawed_)) console_->Line(line);
  }
  std::string line = absl::StrCat(job.id(), "  ", StateName(job.state()));
  if (job.start_time().seconds() > 0 && job.end_time().seconds() > 0) {
    const double seconds =
        static_cast<double>(job.end_time().seconds() - job.start_time().seconds()) +
        1e-9 * (job.end_time().nanos() - job.start_time().nanos());
    absl::StrAppend(&line, " after ", FormatDuration(seconds));
  }
  if (!job.result().empty()) absl::StrAppend(&line, ", result ", job.result());
  for (const char* name : {"accuracy", "macro_f1", "loss"}) {
    const auto value = job.result_metrics().find(name);
    if (value == job.result_metrics().end()) continue;
    absl::StrAppend(&line, ", ", name, " ", FormatMetric(name, value->second));
  }
  console_->Line(line);
  if (!job.has_failure()) return;
  console_->Line(absl::StrCat("blame: ", v1::Failure::Blame_Name(job.failure().blame()), " (",
                              Printable(job.failure().reason()), ")"));
  console_->Line(Printable(job.failure().message()));
  if (!job.failure().incident().empty()) {
    console_->Line(absl::StrCat("incident ", job.failure().incident(),
                                " in the server's log; thaw logs ", job.id(),
                                " shows the trainer's"));
  }
}

}  // namespace thaw
