#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/job_view.h"
#include "client/cli/loss_plot.h"
#include "client/cli/output.h"
#include "client/cli/steering_words.h"
#include "client/cli/thaw_view.h"
#include "common/base/status.h"

namespace thaw {
namespace {

constexpr int kPlotHeight = 10;

std::string Describe(const v1::Event& event) {
  switch (event.kind_case()) {
    case v1::Event::kStateChange: {
      const v1::StateChange& change = event.state_change();
      std::string text = StateName(change.to());
      if (!change.worker().empty()) absl::StrAppend(&text, " on ", change.worker());
      if (!change.reason().empty()) absl::StrAppend(&text, ": ", change.reason());
      if (change.has_failure()) {
        absl::StrAppend(&text, " (", change.failure().reason(), ": ", change.failure().message(),
                        ")");
      }
      return text;
    }
    case v1::Event::kMetricPoints: {
      if (event.metric_points().points().empty()) return "metrics";
      const v1::MetricPoint& last = *event.metric_points().points().rbegin();
      std::string text = absl::StrCat("metrics of ", event.metric_points().points_size(),
                                      " steps up to ", last.step(), ":");
      // Groups are left to `thaw metrics`: a deep model has dozens.
      for (const v1::MetricValue& value : last.values()) {
        if (!value.group().empty()) continue;
        absl::StrAppend(&text, " ", value.name(), "=", FormatNumber(value.value()));
      }
      return text;
    }
    case v1::Event::kPhaseStart:
      return absl::StrCat("phase ", event.phase_start().phase(), " ", event.phase_start().name(),
                          " begins: ", FormatCount(event.phase_start().trainable_parameters()),
                          " parameters train, ", event.phase_start().steps(), " steps",
                          event.phase_start().newly_trainable_names().empty() ? "" : ", new: ",
                          ShortNames(event.phase_start().newly_trainable_names(), 4));
    case v1::Event::kEvaluationEnd: {
      std::string text = absl::StrCat("evaluated at step ", event.evaluation_end().step(), ":");
      for (const auto& [name, value] : std::map<std::string, double>(
               event.evaluation_end().values().begin(), event.evaluation_end().values().end())) {
        absl::StrAppend(&text, " ", name, "=", FormatNumber(value));
      }
      return absl::StrCat(text, event.evaluation_end().best() ? " (best)" : "");
    }
    case v1::Event::kCheckpointCommitted:
      return absl::StrCat("checkpoint at step ", event.checkpoint_committed().step(), ", ",
                          FormatBytes(event.checkpoint_committed().size_bytes()));
    case v1::Event::kWarning:
      return absl::StrCat("warning ", event.warning().reason(), ": ", event.warning().message());
    case v1::Event::kLogLine:
      return event.log_line().text();
    case v1::Event::kGeneratedText:
      return absl::StrCat("text of row ", event.generated_text().row(), ": ",
                          event.generated_text().text());
    case v1::Event::kRolledBack:
      return absl::StrCat("rolled back to step ", event.rolled_back().to_step());
    case v1::Event::kJobUpdated: {
      std::string text = "updated:";
      for (const std::string& field : event.job_updated().fields())
        absl::StrAppend(&text, " ", field);
      return text;
    }
    case v1::Event::kSteeringAsked:
      return AskedWords(event.steering_asked());
    case v1::Event::kSteeringApplied:
      return AppliedWords(event.steering_applied());
    case v1::Event::KIND_NOT_SET:
      break;
  }
  return "an event that this version does not know";
}

// A group's name with its number, if it ends with one, as wide as any: block.2 before block.10.
std::string NaturalOrder(const std::string& group) {
  const size_t digits = group.find_last_not_of("0123456789") + 1;
  const size_t width = group.size() - std::min(digits, group.size());
  return group.substr(0, digits) + std::string(20 - std::min<size_t>(width, 20), '0') +
         group.substr(digits);
}

// Where each group's series stands, and what lies behind it.
std::string GroupTable(std::vector<const v1::MetricSeries*> series) {
  std::sort(series.begin(), series.end(), [](const auto* a, const auto* b) {
    return std::make_pair(a->name(), NaturalOrder(a->group())) <
           std::make_pair(b->name(), NaturalOrder(b->group()));
  });
  std::vector<std::vector<std::string>> rows = {
      {"metric", "group", ">step", ">newest", ">least", ">most"}};
  for (const v1::MetricSeries* one : series) {
    if (one->values().empty() || one->steps_size() != one->values_size()) continue;
    const auto [least, most] = std::minmax_element(one->values().begin(), one->values().end());
    rows.push_back({one->name(), one->group(), FormatCount(*one->steps().rbegin()),
                    FormatNumber(*one->values().rbegin()), FormatNumber(*least),
                    FormatNumber(*most)});
  }
  return Table(rows);
}

}  // namespace

ExitCode RunEvents(const Session& session, const std::string& job, int64_t after_sequence) {
  THAW_ASSIGN_OR_RETURN(const std::string id, FindJob(session, job));
  THAW_ASSIGN_OR_RETURN(const std::vector<v1::Event> events,
                        session.client->jobs().ListJobEvents(id, after_sequence));
  if (session.json) {
    for (const v1::Event& event : events) Print("%s\n", JsonLine(event).c_str());
    return kExitOk;
  }
  std::vector<std::vector<std::string>> rows = {{">#", "time", ">attempt", "what"}};
  for (const v1::Event& event : events) {
    rows.push_back({absl::StrCat(event.sequence()), FormatTime(event.time()),
                    event.attempt() > 0 ? absl::StrCat(event.attempt()) : "",
                    Printable(Describe(event))});
  }
  Print("%s\n", Table(rows).c_str());
  return kExitOk;
}

ExitCode RunLogs(const Session& session, const std::string& job, int attempt) {
  THAW_ASSIGN_OR_RETURN(const std::string id, FindJob(session, job));
  THAW_RETURN_IF_ERROR(session.client->jobs().ReadJobLog(id, attempt, [&](absl::string_view text) {
    if (session.json) {
      Print("%s\n", JsonText("text", text).c_str());
      return;
    }
    // Line by line: a log's own line ends are wanted, its other control characters are not.
    while (!text.empty()) {
      const size_t end = std::min(text.find('\n'), text.size());
      Print("%s%s", Printable(text.substr(0, end)).c_str(), end < text.size() ? "\n" : "");
      text.remove_prefix(std::min(end + 1, text.size()));
    }
  }));
  return kExitOk;
}

ExitCode RunMetrics(const Session& session, const MetricsOptions& options) {
  THAW_ASSIGN_OR_RETURN(const std::string id, FindJob(session, options.job));
  v1::QueryMetricsRequest request;
  request.set_id(id);
  request.set_max_points(options.max_points);
  for (const std::string& name : options.names) request.add_names(name);
  if (options.names.empty() && !session.json) request.add_names("loss");
  THAW_ASSIGN_OR_RETURN(const v1::QueryMetricsResponse response,
                        session.client->jobs().QueryMetrics(request));
  std::vector<const v1::MetricSeries*> of_groups;
  for (const v1::MetricSeries& series : response.series()) {
    if (session.json) {
      Print("%s\n", JsonLine(series).c_str());
      continue;
    }
    if (!series.group().empty()) {
      of_groups.push_back(&series);
      continue;
    }
    std::vector<PlotPoint> points;
    for (int i = 0; i < std::min(series.steps_size(), series.values_size()); ++i) {
      points.push_back({series.steps(i), series.values(i)});
    }
    Print("%s\n", Printable(series.name()).c_str());
    const std::string plot = PlotCurve(series.name() == "loss" ? Smoothed(points) : points, {},
                                       std::min(session.console->width(), 90), kPlotHeight);
    if (!plot.empty()) {
      Print("%s\n", plot.c_str());
    } else if (!points.empty()) {
      Print("step %lld: %s\n", static_cast<long long>(points.back().step),
            FormatNumber(points.back().value).c_str());
    }
  }
  if (!of_groups.empty()) Print("%s\n", GroupTable(std::move(of_groups)).c_str());
  if (response.series().empty() && !session.json) Print("no metrics yet\n");
  return kExitOk;
}

}  // namespace thaw
