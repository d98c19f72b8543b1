#include <algorithm>
#include <cstdio>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/job_view.h"
#include "client/cli/output.h"
#include "client/cli/thaw_view.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "common/spec/planned_training.h"
#include "common/spec/spec_json.h"

namespace thaw {
namespace {

std::string HowFar(const v1::Job& job) {
  if (job.state() == v1::Job::QUEUED && job.queue_position() > 0) {
    return absl::StrCat("place ", job.queue_position());
  }
  const v1::Progress& progress = job.progress();
  if (progress.rows_total() > 0) {
    return FormatShare(static_cast<double>(progress.rows_done()) /
                       static_cast<double>(progress.rows_total()));
  }
  if (progress.total_steps() <= 0)
    return progress.step() > 0 ? absl::StrCat("step ", progress.step()) : "";
  return FormatShare(static_cast<double>(progress.step()) /
                     static_cast<double>(progress.total_steps()));
}

std::string BestMetric(const v1::Job& job) {
  const auto accuracy = job.result_metrics().find("accuracy");
  if (accuracy != job.result_metrics().end()) {
    return absl::StrCat("accuracy ", FormatShare(accuracy->second));
  }
  if (!job.progress().has_best_metric()) return "";
  const std::string& name = job.progress().metric_name();
  return absl::StrCat(Printable(name), " ", FormatMetric(name, job.progress().best_metric()));
}

int PrintJob(const Session& session, const v1::Job& job) {
  if (session.json) {
    Print("%s\n", JsonLine(job).c_str());
  } else {
    Print("%s  %s%s%s\n", job.id().c_str(), StateName(job.state()).c_str(),
          job.state_reason().empty() ? "" : ": ", Printable(job.state_reason()).c_str());
  }
  return kExitOk;
}

void ShowJob(const v1::Job& job) {
  Print("id         %s\nname       %s\nowner      %s\nstate      %s\n", job.id().c_str(),
        Printable(job.spec().display_name()).c_str(), Printable(job.owner()).c_str(),
        StateName(job.state()).c_str());
  if (!job.state_reason().empty()) Print("reason     %s\n", Printable(job.state_reason()).c_str());
  if (job.queue_position() > 0) Print("queue      place %d\n", job.queue_position());
  Print("created    %s\nstarted    %s\nended      %s\n", FormatTime(job.create_time()).c_str(),
        FormatTime(job.start_time()).c_str(), FormatTime(job.end_time()).c_str());
  if (job.attempt() > 0) {
    Print("attempt    %d on %s\n", job.attempt(), Printable(job.worker()).c_str());
  }
  if (job.progress().step() > 0 || job.progress().rows_total() > 0) {
    Print("progress   %s\n", ProgressLine(job.progress(), 200).c_str());
  }
  if (!job.result().empty()) Print("result     %s\n", job.result().c_str());
  for (const auto& [name, value] :
       std::map<std::string, double>(job.result_metrics().begin(), job.result_metrics().end())) {
    Print("  metric   %s %s\n", Printable(name).c_str(), FormatMetric(name, value).c_str());
  }
  if (job.has_failure()) {
    Print("failure    %s, blame %s: %s\n", Printable(job.failure().reason()).c_str(),
          v1::Failure::Blame_Name(job.failure().blame()).c_str(),
          Printable(job.failure().message()).c_str());
    if (!job.failure().incident().empty()) {
      Print("incident   %s\n", Printable(job.failure().incident()).c_str());
    }
  }
  if (const v1::Training* training = TrainingOf(job.resolved_spec())) {
    Print("%s\n", ProgramTable(*training).c_str());
  }
  Print("spec       %s", SpecToJson(job.resolved_spec()).c_str());
}

// What the evaluation.json of a result says; empty where there is none.
absl::StatusOr<v1::ConfusionMatrix> ConfusionOf(const Session& session, const std::string& result) {
  constexpr char kFile[] = "evaluation.json";
  constexpr int64_t kMostBytes = 1 << 20;
  v1::ConfusionMatrix confusion;
  THAW_ASSIGN_OR_RETURN(const v1::Artifact artifact,
                        session.client->artifacts().GetArtifact(result));
  const bool there = std::any_of(artifact.files().begin(), artifact.files().end(),
                                 [&](const v1::File& file) { return file.path() == kFile; });
  if (!there) return confusion;
  THAW_ASSIGN_OR_RETURN(const std::string text,
                        session.client->artifacts().ReadFile(artifact, kFile, kMostBytes));
  THAW_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text));
  if (!json.is_object() || !json.contains("confusion")) return confusion;
  const nlohmann::json& found = json["confusion"];
  if (!found.is_object()) return confusion;
  for (const nlohmann::json& label : found.value("labels", nlohmann::json::array())) {
    confusion.add_labels(label.is_string() ? label.get<std::string>() : "");
  }
  for (const nlohmann::json& row : found.value("counts", nlohmann::json::array())) {
    for (const nlohmann::json& count : row) {
      confusion.add_counts(count.is_number_integer() ? count.get<int64_t>() : 0);
    }
  }
  return confusion;
}

using JobCall = absl::StatusOr<v1::Job> (JobClient::*)(const std::string&);

ExitCode Steer(const Session& session, const std::string& job, JobCall call) {
  THAW_ASSIGN_OR_RETURN(const std::string id, FindJob(session, job));
  THAW_ASSIGN_OR_RETURN(const v1::Job after, (session.client->jobs().*call)(id));
  return PrintJob(session, after);
}

// What each phase that has begun trains, and the thaw that they make together.
absl::Status PrintPhases(const Session& session, const v1::Job& job) {
  if (job.progress().phase() == 0) return absl::OkStatus();
  THAW_ASSIGN_OR_RETURN(const std::vector<v1::Event> events,
                        session.client->jobs().ListJobEvents(job.id(), 0));
  // Of each phase what began last: a later attempt may have begun it again.
  std::map<int32_t, v1::PhaseStart> phases;
  for (const v1::Event& event : events) {
    if (event.has_phase_start()) phases[event.phase_start().phase()] = event.phase_start();
  }
  std::vector<v1::PhaseStart> begun;
  for (auto& [number, phase] : phases) {
    for (const std::string& line : PhaseLines(phase)) Print("%s\n", line.c_str());
    begun.push_back(std::move(phase));
  }
  if (begun.size() < 2) return absl::OkStatus();
  Print("what trained in each phase, from the embeddings to the head, by rate\n");
  for (const std::string& line : ThawPicture(begun)) Print("%s\n", line.c_str());
  return absl::OkStatus();
}

}  // namespace

ExitCode RunList(const Session& session, const ListOptions& options) {
  JobFilter filter;
  filter.labels = options.labels;
  filter.limit = options.limit;
  for (const std::string& name : options.states) {
    v1::Job::State state;
    if (!v1::Job::State_Parse(absl::AsciiStrToUpper(name), &state)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--state \"", name,
                       "\" is not known; give queued, starting, running, pausing, "
                       "paused, cancelling, succeeded, failed or cancelled"));
    }
    filter.states.push_back(state);
  }
  THAW_ASSIGN_OR_RETURN(const std::vector<v1::Job> jobs, session.client->jobs().ListJobs(filter));
  if (session.json) {
    for (const v1::Job& job : jobs) Print("%s\n", JsonLine(job).c_str());
    return kExitOk;
  }
  std::vector<std::vector<std::string>> rows = {
      {"id", "name", "state", ">progress", "metric", "created", "worker", "reason"}};
  for (const v1::Job& job : jobs) {
    rows.push_back({job.id(), Clip(Printable(job.spec().display_name()), 24),
                    StateName(job.state()), HowFar(job), BestMetric(job),
                    FormatTime(job.create_time()), Printable(job.worker()),
                    Clip(Printable(job.state_reason()), 60)});
  }
  Print("%s\n", rows.size() == 1 ? "no jobs" : Table(rows).c_str());
  return kExitOk;
}

ExitCode RunGet(const Session& session, const std::string& job) {
  THAW_ASSIGN_OR_RETURN(const std::string id, FindJob(session, job));
  THAW_ASSIGN_OR_RETURN(const v1::Job found, session.client->jobs().GetJob(id));
  if (session.json) return PrintJob(session, found);
  ShowJob(found);
  if (!found.resolved_spec().has_training()) return kExitOk;
  THAW_RETURN_IF_ERROR(PrintPhases(session, found));
  if (found.result().empty()) return kExitOk;
  // The job is told of all the same where its result has been deleted.
  const absl::StatusOr<v1::ConfusionMatrix> confusion = ConfusionOf(session, found.result());
  if (absl::IsNotFound(confusion.status())) return kExitOk;
  THAW_RETURN_IF_ERROR(confusion.status());
  const std::string text = ConfusionText(*confusion);
  if (!text.empty()) Print("%s\n", text.c_str());
  return kExitOk;
}

ExitCode RunWatch(const Session& session, const std::string& job) {
  THAW_ASSIGN_OR_RETURN(const std::string id, FindJob(session, job));
  return FollowJob(session, id);
}

ExitCode RunCancel(const Session& session, const std::string& job) {
  return Steer(session, job, &JobClient::CancelJob);
}

ExitCode RunPause(const Session& session, const std::string& job) {
  return Steer(session, job, &JobClient::PauseJob);
}

ExitCode RunResume(const Session& session, const std::string& job) {
  return Steer(session, job, &JobClient::ResumeJob);
}

}  // namespace thaw
