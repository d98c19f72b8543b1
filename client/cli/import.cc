#include <sys/stat.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/output.h"
#include "client/cli/task_names.h"
#include "common/base/status.h"
#include "common/dataset/dataset_columns.h"

namespace thaw {
namespace {

constexpr int kHistogramColumns = 30;
constexpr int kMostLabelsShown = 40;

std::string BaseName(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path.substr(path.rfind('/') + 1);
}

void ShowLabels(const v1::DatasetSummary& summary) {
  int64_t most = 1;
  for (const v1::LabelCount& count : summary.labels()) most = std::max(most, count.rows());
  std::vector<std::vector<std::string>> rows = {{"label", ">rows", ""}};
  for (const v1::LabelCount& count : summary.labels()) {
    if (static_cast<int>(rows.size()) > kMostLabelsShown) {
      rows.push_back({absl::StrCat("… and ", summary.labels_size() - kMostLabelsShown, " more")});
      break;
    }
    const int columns = static_cast<int>(kHistogramColumns * count.rows() / most);
    rows.push_back(
        {Clip(Printable(count.label()), 40), FormatCount(count.rows()), Bar(1, columns)});
  }
  if (rows.size() > 1) Print("%s\n", Table(rows).c_str());
}

// What a row may lack.
const char* AnswerWord(v1::DatasetSummary::Task task) {
  switch (task) {
    case v1::DatasetSummary::REGRESSION:
      return "a number";
    case v1::DatasetSummary::COMPLETION:
      return "an answer";
    case v1::DatasetSummary::SEQUENCE_TO_SEQUENCE:
      return "a target";
    default:
      return "a label";
  }
}

absl::Status ShowReport(const Session& session, const v1::Artifact& dataset) {
  const v1::DatasetSummary& summary = dataset.dataset();
  Print("%s rows, %s bad lines, %s duplicates, %s without %s, %s of text\n",
        FormatCount(summary.rows()).c_str(), FormatCount(summary.bad_lines()).c_str(),
        FormatCount(summary.duplicate_rows()).c_str(),
        FormatCount(summary.unlabelled_rows()).c_str(), AnswerWord(summary.task()),
        FormatBytes(summary.text_bytes()).c_str());
  ShowLabels(summary);
  if (summary.rows_without_labels() > 0) {
    Print("%s rows with no label at all\n", FormatCount(summary.rows_without_labels()).c_str());
  }
  if (summary.task() == v1::DatasetSummary::REGRESSION && summary.unlabelled_rows() == 0) {
    Print("%s from %s to %s\n", Printable(summary.target_column()).c_str(),
          FormatNumber(summary.least_target()).c_str(),
          FormatNumber(summary.greatest_target()).c_str());
  }
  if (summary.has_characters()) {
    const v1::Percentiles& characters = summary.characters();
    Print("characters a row: half up to %s, 90 %% up to %s, 99 %% up to %s, the longest %s\n",
          FormatCount(characters.p50()).c_str(), FormatCount(characters.p90()).c_str(),
          FormatCount(characters.p99()).c_str(), FormatCount(characters.max()).c_str());
  }
  if (dataset.state() == v1::Artifact::READY) return absl::OkStatus();
  return session.client->artifacts().GetDatasetReport(
      dataset.id(), [](const v1::DatasetIssue& issue) {
        Print("%s:%lld (byte %lld): %s%s%s%s%s\n", Printable(issue.path()).c_str(),
              static_cast<long long>(issue.line()), static_cast<long long>(issue.byte_offset()),
              Printable(issue.field()).c_str(), issue.field().empty() ? "" : ": ",
              Printable(issue.reason()).c_str(), issue.remedy().empty() ? "" : ": ",
              Printable(issue.remedy()).c_str());
      });
}

absl::Status PrintReportAsJson(const Session& session, const v1::Artifact& artifact) {
  if (artifact.kind() != v1::Artifact::DATASET || artifact.state() == v1::Artifact::READY) {
    return absl::OkStatus();
  }
  return session.client->artifacts().GetDatasetReport(
      artifact.id(), [](const v1::DatasetIssue& issue) { Print("%s\n", JsonLine(issue).c_str()); });
}

}  // namespace

ExitCode RunImport(const Session& session, const ImportOptions& options) {
  ImportRequest request;
  request.kind = options.kind;
  request.display_name = options.name.empty() ? BaseName(options.path) : options.name;
  std::vector<std::string> skipped;
  if (options.kind == v1::Artifact::MODEL) {
    THAW_ASSIGN_OR_RETURN(request.files, FilesOfModel(options.path, &skipped));
    if (!options.base.empty()) {
      THAW_ASSIGN_OR_RETURN(const v1::Artifact base, FindModel(session, options.base));
      request.base_model = base.id();
    }
  } else {
    struct stat info {};
    if (stat(options.path.c_str(), &info) != 0) return ErrnoStatus(errno, options.path);
    if (!S_ISREG(info.st_mode)) {
      return absl::InvalidArgumentError(
          absl::StrCat(options.path, " is not a file; give one of JSON Lines, CSV, TSV or text"));
    }
    request.columns = options.columns;
    v1::DatasetSummary::Format format = v1::DatasetSummary::FORMAT_UNSPECIFIED;
    if (!options.format.empty()) {
      THAW_ASSIGN_OR_RETURN(format, ParseFormat(options.format));
    }
    format = FormatOf(format, options.path);
    if (format == v1::DatasetSummary::FORMAT_UNSPECIFIED) format = v1::DatasetSummary::JSONL;
    // The ending says it to the server.
    request.files = {{options.path, absl::StrCat("data.", FormatWord(format))}};
    if (!options.task.empty()) {
      THAW_ASSIGN_OR_RETURN(const v1::DatasetSummary::Task task, ParseTask(options.task));
      request.columns.set_task(task);
    }
  }
  if (!skipped.empty() && !session.json) {
    session.console->Line(absl::StrCat("left out: ", Printable(absl::StrJoin(skipped, ", "))));
  }
  const absl::StatusOr<v1::Artifact> artifact = session.client->artifacts().Import(
      request,
      ShowTransfer(session.console, absl::StrCat("uploading ", Printable(request.display_name))));
  session.console->ClearStatus();
  if (!artifact.ok()) return artifact.status();

  const bool ready = artifact->state() == v1::Artifact::READY;
  if (session.json) {
    Print("%s\n", JsonLine(*artifact).c_str());
    THAW_RETURN_IF_ERROR(PrintReportAsJson(session, *artifact));
    return ready ? kExitOk : kExitUsage;
  }
  if (options.kind == v1::Artifact::DATASET) THAW_RETURN_IF_ERROR(ShowReport(session, *artifact));
  Print("%s  %s  %s  %s\n", artifact->id().c_str(), Printable(artifact->display_name()).c_str(),
        FormatBytes(artifact->size_bytes()).c_str(),
        v1::Artifact::State_Name(artifact->state()).c_str());
  if (ready) return kExitOk;
  return absl::InvalidArgumentError(absl::StrCat(options.path,
                                                 " cannot be used: ", artifact->state_reason(),
                                                 "; mend it and import it again"));
}

}  // namespace thaw
