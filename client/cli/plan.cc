#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/output.h"
#include "common/base/status.h"
#include "common/spec/planned_training.h"
#include "google/protobuf/util/json_util.h"
#include "thaw/v1/plan.pb.h"

namespace thaw {
namespace {

constexpr char kPlanFile[] = "plan.json";
constexpr int kPlanVersion = 1;
constexpr int64_t kMaxPlanBytes = 4 << 20;

absl::StatusOr<v1::PlanReport> ReadPlan(const Session& session, const std::string& result) {
  THAW_ASSIGN_OR_RETURN(const v1::Artifact artifact,
                        session.client->artifacts().GetArtifact(result));
  THAW_ASSIGN_OR_RETURN(const std::string text,
                        session.client->artifacts().ReadFile(artifact, kPlanFile, kMaxPlanBytes));
  v1::PlanReport report;
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  if (!google::protobuf::util::JsonStringToMessage(text, &report, options).ok()) {
    return absl::DataLossError(absl::StrCat(kPlanFile, " of ", result, " is no plan"));
  }
  if (report.format_version() != kPlanVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat(kPlanFile, " of ", result, " has format version ", report.format_version(),
                     "; this thaw reads ", kPlanVersion, ": use a newer one"));
  }
  return report;
}

void PrintRows(const char* what, const v1::PlannedRows& rows) {
  if (rows.rows() == 0) return;
  std::string line = absl::StrCat(FormatCount(rows.rows()), " rows with ",
                                  FormatCount(rows.tokens()), " tokens, half up to ",
                                  rows.length().p50(), ", the longest ", rows.length().max());
  const auto add = [&](int64_t count, const char* did) {
    if (count > 0) absl::StrAppend(&line, "; ", FormatCount(count), " ", did);
  };
  add(rows.truncated_rows(), "cut at max_length");
  add(rows.split_rows(), "pieces of longer ones");
  add(rows.dropped_rows(), "left out as too long");
  add(rows.skipped_rows(), "left out without anything to learn from");
  Print("%-11s %s\n", what, line.c_str());
}

void PrintPlan(const v1::PlanReport& report) {
  PrintRows("training", report.training());
  PrintRows("validation", report.validation());
  Print("%-11s %s numbers\n\n", "model", FormatCount(report.parameters()).c_str());
  std::vector<std::vector<std::string>> rows = {
      {">phase", "name", ">trains", ">steps", ">tokens", ">memory", ">CPU time", ">time", "cache"}};
  for (const v1::PlannedPhase& phase : report.phases()) {
    rows.push_back({absl::StrCat(rows.size()), Printable(phase.name()),
                    FormatCount(phase.trainable_parameters()), FormatCount(phase.steps()),
                    FormatCount(phase.tokens()), FormatBytes(phase.peak_memory_bytes()),
                    FormatDuration(phase.cpu_seconds()), FormatDuration(phase.seconds()),
                    phase.cached() ? "kept" : ""});
  }
  rows.push_back({"", "all, with start and result", "", FormatCount(report.steps()), "",
                  FormatBytes(report.peak_memory_bytes()), FormatDuration(report.cpu_seconds()),
                  FormatDuration(report.seconds()), ""});
  Print("%s\n", Table(rows).c_str());
}

}  // namespace

ExitCode RunPlan(const Session& session, const SubmitOptions& options) {
  THAW_ASSIGN_OR_RETURN(v1::JobSpec spec, SpecOf(session, options));
  if (TrainingOf(spec) == nullptr) {
    return absl::InvalidArgumentError("only a training can be planned; give the file of one");
  }
  v1::CreateJobRequest request;
  *request.mutable_spec() = WithPlan(std::move(spec));
  request.set_request_id(options.request_id);
  THAW_ASSIGN_OR_RETURN(const v1::Job job, session.client->jobs().CreateJob(request));
  if (!session.json) session.console->Line(absl::StrCat(job.id(), " plans"));
  const absl::StatusOr<v1::Job> ended = AwaitJob(session, job.id());
  if (absl::IsCancelled(ended.status())) return kExitInterrupted;
  THAW_RETURN_IF_ERROR(ended.status());
  if (ended->result().empty()) {
    return absl::AbortedError(absl::StrCat(
        job.id(), " has ended ", v1::Job::State_Name(ended->state()), ": ",
        ended->failure().message().empty() ? ended->state_reason() : ended->failure().message()));
  }
  THAW_ASSIGN_OR_RETURN(const v1::PlanReport report, ReadPlan(session, ended->result()));
  if (session.json) {
    Print("%s\n", JsonLine(report).c_str());
  } else {
    PrintPlan(report);
  }
  return kExitOk;
}

}  // namespace thaw
