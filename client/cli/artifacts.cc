#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/output.h"
#include "client/cli/task_names.h"
#include "common/base/status.h"
#include "common/spec/model_abilities.h"

namespace thaw {
namespace {

// What matters most of an artifact, in a few words.
std::string Summary(const v1::Artifact& artifact) {
  if (artifact.state() == v1::Artifact::REJECTED) return Printable(artifact.state_reason());
  if (artifact.has_dataset()) {
    const v1::DatasetSummary& dataset = artifact.dataset();
    const std::string rows = absl::StrCat(FormatCount(dataset.rows()), " rows, ");
    return dataset.labels_size() > 0 ? absl::StrCat(rows, dataset.labels_size(), " labels")
                                     : absl::StrCat(rows, TaskWord(dataset.task()));
  }
  std::vector<std::string> parts;
  if (!artifact.model().model_type().empty()) {
    parts.push_back(absl::StrCat(Printable(artifact.model().model_type()), ", ",
                                 artifact.model().blocks(), " blocks × ",
                                 artifact.model().hidden_size()));
  }
  const auto accuracy = artifact.metrics().find("accuracy");
  if (accuracy != artifact.metrics().end()) {
    parts.push_back(absl::StrCat("accuracy ", FormatShare(accuracy->second)));
  }
  return absl::StrJoin(parts, ", ");
}

void ShowModel(const v1::ModelSummary& model) {
  Print("model      %s, %d blocks of width %d, %d positions, %s parameters\n",
        Printable(model.model_type()).c_str(), model.blocks(), model.hidden_size(),
        model.max_positions(), FormatCount(model.parameters()).c_str());
  Print("head       %s%s\n", v1::ModelSummary::Head_Name(HeadOf(model)).c_str(),
        model.chat_template() ? ", with a chat template" : "");
  if (model.labels_size() > 0) {
    Print("labels     %s\n", Printable(absl::StrJoin(model.labels(), ", ")).c_str());
  }
}

void ShowDataset(const v1::DatasetSummary& dataset) {
  std::vector<std::string> columns;
  for (const auto& [what, name] :
       {std::pair("text", dataset.text_column()),
        std::pair("second text", dataset.text_pair_column()),
        std::pair("label", dataset.label_column()), std::pair("prompt", dataset.prompt_column()),
        std::pair("completion", dataset.completion_column()),
        std::pair("messages", dataset.messages_column()),
        std::pair("source", dataset.source_column()),
        std::pair("target", dataset.target_column())}) {
    if (!name.empty()) columns.push_back(absl::StrCat(what, " \"", Printable(name), "\""));
  }
  Print("task       %s\n", TaskWord(dataset.task()).c_str());
  Print("format     %s\n", FormatWord(dataset.format()).c_str());
  Print("columns    %s\n", absl::StrJoin(columns, ", ").c_str());
  Print("rows       %s, %s bad lines, %s duplicates, %s without a label\n",
        FormatCount(dataset.rows()).c_str(), FormatCount(dataset.bad_lines()).c_str(),
        FormatCount(dataset.duplicate_rows()).c_str(),
        FormatCount(dataset.unlabelled_rows()).c_str());
  for (const v1::LabelCount& count : dataset.labels()) {
    Print("  label    %s: %s rows\n", Printable(count.label()).c_str(),
          FormatCount(count.rows()).c_str());
  }
}

}  // namespace

ExitCode RunListArtifacts(const Session& session, const ArtifactsOptions& options) {
  THAW_ASSIGN_OR_RETURN(const std::vector<v1::Artifact> artifacts,
                        session.client->artifacts().ListArtifacts(options.kind));
  if (session.json) {
    for (const v1::Artifact& artifact : artifacts) Print("%s\n", JsonLine(artifact).c_str());
    return kExitOk;
  }
  std::vector<std::vector<std::string>> rows = {
      {"id", "name", "state", ">size", "created", "holds"}};
  for (const v1::Artifact& artifact : artifacts) {
    rows.push_back({artifact.id(), Clip(Printable(artifact.display_name()), 30),
                    v1::Artifact::State_Name(artifact.state()), FormatBytes(artifact.size_bytes()),
                    FormatTime(artifact.create_time()), Summary(artifact)});
  }
  if (rows.size() == 1) {
    Print("no %ss yet\n", KindWord(options.kind).c_str());
  } else {
    Print("%s\n", Table(rows).c_str());
  }
  return kExitOk;
}

ExitCode RunShowArtifact(const Session& session, const ArtifactsOptions& options) {
  THAW_ASSIGN_OR_RETURN(const v1::Artifact found,
                        session.client->artifacts().Find(options.kind, options.artifact));
  THAW_ASSIGN_OR_RETURN(const v1::Artifact artifact,
                        session.client->artifacts().GetArtifact(found.id()));
  if (session.json) {
    Print("%s\n", JsonLine(artifact).c_str());
    return kExitOk;
  }
  Print(
      "id         %s\nname       %s\nstate      %s%s%s\nowner      %s\ncreated    %s\ndigest     "
      "%s\n",
      artifact.id().c_str(), Printable(artifact.display_name()).c_str(),
      v1::Artifact::State_Name(artifact.state()).c_str(),
      artifact.state_reason().empty() ? "" : ": ", Printable(artifact.state_reason()).c_str(),
      Printable(artifact.owner()).c_str(), FormatTime(artifact.create_time()).c_str(),
      artifact.digest().c_str());
  if (!artifact.job().empty()) Print("job        %s\n", artifact.job().c_str());
  if (artifact.has_model()) ShowModel(artifact.model());
  if (artifact.has_dataset()) ShowDataset(artifact.dataset());
  for (const auto& [name, value] :
       std::map<std::string, double>(artifact.metrics().begin(), artifact.metrics().end())) {
    Print("  metric   %s %s\n", Printable(name).c_str(), FormatMetric(name, value).c_str());
  }
  for (const v1::File& file : artifact.files()) {
    Print("  file     %s  %s  %s\n", file.sha256().substr(0, 12).c_str(),
          Printable(file.path()).c_str(), FormatBytes(file.size()).c_str());
  }
  return kExitOk;
}

ExitCode RunDeleteArtifact(const Session& session, const ArtifactsOptions& options) {
  THAW_ASSIGN_OR_RETURN(const v1::Artifact artifact,
                        session.client->artifacts().Find(options.kind, options.artifact));
  THAW_RETURN_IF_ERROR(session.client->artifacts().DeleteArtifact(artifact.id()));
  Print(session.json ? "{\"deleted\":\"%s\"}\n" : "deleted %s\n", artifact.id().c_str());
  return kExitOk;
}

}  // namespace thaw
