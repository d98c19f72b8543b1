#include "client/cli/output.h"

#include <cstdio>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "client/cli/format.h"
#include "client/cli/job_view.h"
#include "common/base/status.h"
#include "google/protobuf/util/json_util.h"
#include "nlohmann/json.hpp"

namespace thaw {
namespace {

int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return kExitUnreachable;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return kExitUsage;
    default:
      return kExitJobFailed;
  }
}

std::string Trains(const v1::Selector& selector) {
  std::string text;
  const auto lower = [](const std::string& name) {
    return absl::StrReplaceAll(absl::AsciiStrToLower(name), {{"_", " "}});
  };
  switch (selector.include_case()) {
    case v1::Selector::kHeadOnly:
      text = "head";
      break;
    case v1::Selector::kLastBlocks:
      text = absl::StrCat("head, last ", selector.last_blocks(), " blocks");
      break;
    case v1::Selector::kEverything:
      text = "everything";
      break;
    case v1::Selector::kNamePattern:
      text = absl::StrCat("names like ", selector.name_pattern());
      break;
    case v1::Selector::kKind:
      text = lower(v1::Selector::Kind_Name(selector.kind()));
      break;
    case v1::Selector::kAnyOf:
      for (const v1::Selector& one : selector.any_of().values()) {
        absl::StrAppend(&text, text.empty() ? "" : " and ", Trains(one));
      }
      break;
    case v1::Selector::INCLUDE_NOT_SET:
      break;
  }
  for (const std::string& pattern : selector.exclude_patterns()) {
    absl::StrAppend(&text, ", not ", pattern);
  }
  for (const v1::Selector& one : selector.and_not()) {
    absl::StrAppend(&text, ", not (", Trains(one), ")");
  }
  return Printable(text);
}

std::string Until(const v1::Phase& phase) {
  switch (phase.until_case()) {
    case v1::Phase::kSteps:
      return absl::StrCat(FormatCount(phase.steps()), " steps");
    case v1::Phase::kEpochs:
      return absl::StrCat(FormatNumber(phase.epochs()), " epochs");
    case v1::Phase::kPlateau:
      return absl::StrCat("plateau, at most ", FormatNumber(phase.plateau().max_epochs()),
                          " epochs");
    case v1::Phase::kLossUnits:
      return absl::StrCat(FormatCount(phase.loss_units()), " loss units");
    case v1::Phase::kWallTime:
      return FormatDuration(static_cast<double>(phase.wall_time().seconds()) +
                            1e-9 * phase.wall_time().nanos());
    case v1::Phase::kConvergence:
      return absl::StrCat("convergence, at most ",
                          FormatCount(phase.convergence().max_iterations()), " iterations");
    case v1::Phase::UNTIL_NOT_SET:
      break;
  }
  return "";
}

// The job as it stands after a watch; `on_message` sees what comes on the way.
absl::StatusOr<v1::Job> WatchToEnd(
    const Session& session, const std::string& job,
    const std::function<void(const v1::WatchJobResponse&)>& on_message) {
  absl::Status status;
  {
    Interrupts::Scope scope(session.interrupts, [&] { session.client->jobs().StopWatching(); });
    status = session.client->jobs().WatchJob(job, {}, [&](const v1::WatchJobResponse& message) {
      on_message(message);
      return true;
    });
  }
  THAW_RETURN_IF_ERROR(status);
  return session.client->jobs().GetJob(job);
}

int Interrupted(const Session& session, const std::string& job) {
  session.console->ClearStatus();
  if (!session.json) {
    session.console->Line(absl::StrCat("the job goes on: thaw watch ", job,
                                       " shows it again, thaw cancel ", job, " ends it"));
  }
  return kExitInterrupted;
}

}  // namespace

std::string JsonLine(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string line;
  // Fails only for Any fields of unknown type, and Thaw has none.
  (void)google::protobuf::util::MessageToJsonString(message, &line, options);
  return line;
}

std::string JsonText(absl::string_view key, absl::string_view text) {
  return nlohmann::json({{std::string(key), std::string(text)}})
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

int ReportError(const absl::Status& status, bool json) {
  const std::vector<FieldViolation> violations = ViolationsOf(status);
  if (json) {
    nlohmann::json error = {{"code", absl::StatusCodeToString(status.code())},
                            {"message", std::string(status.message())}};
    if (!ReasonOf(status).empty()) error["reason"] = ReasonOf(status);
    for (const FieldViolation& one : violations) {
      error["fields"].push_back({{"field", one.field}, {"description", one.description}});
    }
    const std::string line = nlohmann::json({{"error", error}})
                                 .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    PrintError("%s\n", line.c_str());
  } else if (violations.empty()) {
    PrintError("thaw: %s\n", Printable(status.message()).c_str());
  } else {
    for (const FieldViolation& one : violations) {
      PrintError("thaw: %s: %s\n", Printable(one.field).c_str(),
                 Printable(one.description).c_str());
    }
  }
  return ExitCodeOf(status);
}

std::string KindWord(v1::Artifact::Kind kind) {
  switch (kind) {
    case v1::Artifact::MODEL:
      return "model";
    case v1::Artifact::DATASET:
      return "dataset";
    case v1::Artifact::RESULT:
      return "result";
    default:
      return "artifact";
  }
}

std::string ProgramTable(const v1::Training& training) {
  std::vector<std::vector<std::string>> rows = {
      {">phase", "name", "trains", ">learning rate", ">decay", "schedule", "until"}};
  for (int i = 0; i < training.phases_size(); ++i) {
    const v1::Phase& phase = training.phases(i);
    if (phase.has_convergence()) {
      rows.push_back({absl::StrCat(i + 1), Printable(phase.name()), Trains(phase.selector()), "-",
                      "-", "-", Until(phase)});
      continue;
    }
    rows.push_back({absl::StrCat(i + 1), Printable(phase.name()), Trains(phase.selector()),
                    absl::StrCat(FormatNumber(phase.learning_rate()),
                                 phase.rate_overrides().empty() ? "" : " and others"),
                    FormatNumber(phase.has_learning_rate_decay() ? phase.learning_rate_decay() : 1),
                    v1::Schedule::Shape_Name(training.has_schedule() ? training.schedule().shape()
                                                                     : phase.schedule().shape()),
                    Until(phase)});
  }
  return Table(rows);
}

absl::StatusOr<std::string> FindJob(const Session& session, const std::string& id_or_name) {
  if (absl::StartsWith(id_or_name, "job-")) return id_or_name;
  JobFilter filter;
  filter.limit = 0;
  THAW_ASSIGN_OR_RETURN(const std::vector<v1::Job> jobs, session.client->jobs().ListJobs(filter));
  for (const v1::Job& job : jobs) {
    if (job.spec().display_name() == id_or_name) return job.id();
  }
  return absl::NotFoundError(
      absl::StrCat("no job is called \"", id_or_name, "\"; thaw list shows ids and names"));
}

absl::StatusOr<v1::Artifact> FindModel(const Session& session, const std::string& id_or_name) {
  ArtifactClient& artifacts = session.client->artifacts();
  if (absl::StartsWith(id_or_name, "job-")) {
    THAW_ASSIGN_OR_RETURN(const v1::Job job, session.client->jobs().GetJob(id_or_name));
    if (!job.result().empty()) return artifacts.GetArtifact(job.result());
    return absl::FailedPreconditionError(
        absl::StrCat(id_or_name, " is ", StateName(job.state()),
                     " and has no result; give a job that succeeded"));
  }
  if (absl::StartsWith(id_or_name, "result-")) return artifacts.GetArtifact(id_or_name);
  const absl::StatusOr<v1::Artifact> model = artifacts.Find(v1::Artifact::MODEL, id_or_name);
  if (!absl::IsNotFound(model.status())) return model;
  const absl::StatusOr<v1::Artifact> result = artifacts.Find(v1::Artifact::RESULT, id_or_name);
  if (!absl::IsNotFound(result.status())) return result;
  const absl::StatusOr<std::string> job = FindJob(session, id_or_name);
  if (absl::IsNotFound(job.status())) return model.status();
  if (!job.ok()) return job.status();
  return FindModel(session, *job);
}

ExitCode FollowJob(const Session& session, const std::string& job) {
  JobView view(session.console);
  const absl::StatusOr<v1::Job> ended =
      WatchToEnd(session, job, [&](const v1::WatchJobResponse& message) {
        if (!session.json) {
          view.Show(message);
        } else if (!message.has_heartbeat()) {
          Print("%s\n", JsonLine(message).c_str());
          std::fflush(stdout);
        }
      });
  if (absl::IsCancelled(ended.status())) return Interrupted(session, job);
  if (!ended.ok()) return ended.status();
  if (session.json) {
    Print("%s\n", JsonLine(*ended).c_str());
  } else {
    view.ShowEnd(*ended);
  }
  return ended->state() == v1::Job::SUCCEEDED ? kExitOk : kExitJobFailed;
}

absl::StatusOr<v1::Job> AwaitJob(const Session& session, const std::string& job,
                                 const std::function<bool(const v1::Event&)>& show) {
  bool shown = false;
  const absl::StatusOr<v1::Job> ended =
      WatchToEnd(session, job, [&](const v1::WatchJobResponse& message) {
        if (message.has_event() && show) {
          // The first piece of text takes the place of the status line.
          if (!shown && message.event().has_generated_text()) session.console->ClearStatus();
          shown = show(message.event()) || shown;
        }
        if (message.has_progress() && !shown) {
          session.console->Status(ProgressLine(message.progress(), session.console->width() - 1));
        }
      });
  session.console->ClearStatus();
  if (absl::IsCancelled(ended.status())) Interrupted(session, job);
  return ended;
}

TransferProgress ShowTransfer(Console* console, const std::string& what) {
  return [console, what](int64_t done, int64_t total) {
    const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1;
    console->Status(absl::StrCat(what, "  ", Bar(share, 24), " ", static_cast<int>(100 * share),
                                 " %  ", FormatBytes(done), " of ", FormatBytes(total)));
  };
}

}  // namespace thaw
