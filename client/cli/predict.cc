#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/output.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "common/base/status.h"

namespace thaw {
namespace {

constexpr char kAnswersFile[] = "predictions.jsonl";
constexpr int64_t kMostAnswerBytes = int64_t{1} << 30;

absl::Status UseDataset(const Session& session, const v1::Artifact& dataset,
                        v1::Prediction* prediction) {
  prediction->set_dataset(dataset.id());
  prediction->mutable_classify()->set_text_column(dataset.dataset().text_column());
  prediction->mutable_classify()->set_label_column(dataset.dataset().label_column());
  return absl::OkStatus();
}

absl::Status UseFile(const Session& session, const PredictOptions& options,
                     v1::Prediction* prediction) {
  if (absl::EndsWith(options.file, ".jsonl")) {
    ImportRequest request;
    request.kind = v1::Artifact::DATASET;
    request.display_name = options.file.substr(options.file.rfind('/') + 1);
    request.files = {{options.file, "data.jsonl"}};
    request.columns.set_text_column(options.text_column);
    request.columns.set_label_column(options.label_column);
    THAW_ASSIGN_OR_RETURN(
        const v1::Artifact dataset,
        session.client->artifacts().Import(request, ShowTransfer(session.console, "uploading")));
    session.console->ClearStatus();
    if (dataset.state() == v1::Artifact::READY) return UseDataset(session, dataset, prediction);
    return absl::InvalidArgumentError(absl::StrCat(options.file,
                                                   " cannot be used: ", dataset.state_reason(),
                                                   "; thaw dataset import shows every bad line"));
  }
  THAW_ASSIGN_OR_RETURN(const std::string text, ReadFile(options.file));
  for (const absl::string_view line : absl::StrSplit(absl::StripSuffix(text, "\n"), '\n')) {
    prediction->mutable_texts()->add_values(std::string(absl::StripSuffix(line, "\r")));
  }
  return absl::OkStatus();
}

absl::Status ChooseInput(const Session& session, const PredictOptions& options,
                         v1::Prediction* prediction) {
  const int given = (options.texts.empty() ? 0 : 1) + (options.file.empty() ? 0 : 1) +
                    (options.data.empty() ? 0 : 1);
  if (given != 1) {
    return absl::InvalidArgumentError("give texts, --file or --data, and only one of them");
  }
  if (!options.file.empty()) return UseFile(session, options, prediction);
  if (!options.data.empty()) {
    THAW_ASSIGN_OR_RETURN(const v1::Artifact dataset,
                          session.client->artifacts().Find(v1::Artifact::DATASET, options.data));
    return UseDataset(session, dataset, prediction);
  }
  for (const std::string& text : options.texts) prediction->mutable_texts()->add_values(text);
  return absl::OkStatus();
}

// "positive  98.2 %  the text": one line of predictions.jsonl for people.
absl::StatusOr<std::string> Readable(absl::string_view line, const v1::InlineTexts& texts) {
  THAW_ASSIGN_OR_RETURN(const nlohmann::json answer, ParseJson(line));
  if (!answer.contains("label") || !answer["label"].is_string() || !answer.contains("score") ||
      !answer["score"].is_number()) {
    return absl::DataLossError(absl::StrCat("an answer without label or score: ", line));
  }
  std::string text = absl::StrCat(Printable(answer["label"].get<std::string>()), "  ",
                                  FormatShare(answer["score"].get<double>()));
  const auto number = answer.find("row");
  const int row = number != answer.end() && number->is_number_integer() ? number->get<int>() : -1;
  if (row >= 0 && row < texts.values_size()) {
    absl::StrAppend(&text, "  ", Clip(Printable(texts.values(row)), 100));
  }
  return text;
}

absl::Status PrintAnswers(const Session& session, const std::string& answers,
                          const v1::Prediction& prediction) {
  for (const absl::string_view line : absl::StrSplit(answers, '\n', absl::SkipEmpty())) {
    if (session.json) {
      Print("%.*s\n", static_cast<int>(line.size()), line.data());
      continue;
    }
    THAW_ASSIGN_OR_RETURN(const std::string readable, Readable(line, prediction.texts()));
    Print("%s\n", readable.c_str());
  }
  return absl::OkStatus();
}

}  // namespace

ExitCode RunPredict(const Session& session, const PredictOptions& options) {
  v1::CreateJobRequest request;
  v1::Prediction* prediction = request.mutable_spec()->mutable_prediction();
  prediction->mutable_classify();
  prediction->set_max_length(options.max_length);
  THAW_ASSIGN_OR_RETURN(const v1::Artifact model, FindModel(session, options.model));
  prediction->set_model(model.id());
  THAW_RETURN_IF_ERROR(ChooseInput(session, options, prediction));

  THAW_ASSIGN_OR_RETURN(const v1::Job job, session.client->jobs().CreateJob(request));
  const absl::StatusOr<v1::Job> ended = AwaitJob(session, job.id());
  if (absl::IsCancelled(ended.status())) return kExitInterrupted;
  if (!ended.ok()) return ended.status();
  if (ended->state() != v1::Job::SUCCEEDED) {
    return absl::AbortedError(
        absl::StrCat(job.id(), " ", v1::Job::State_Name(ended->state()), ": ",
                     ended->has_failure() ? ended->failure().message() : ended->state_reason()));
  }
  THAW_ASSIGN_OR_RETURN(const v1::Artifact result,
                        session.client->artifacts().GetArtifact(ended->result()));
  THAW_ASSIGN_OR_RETURN(const std::string answers, session.client->artifacts().ReadFile(
                                                       result, kAnswersFile, kMostAnswerBytes));
  if (options.out.empty()) {
    THAW_RETURN_IF_ERROR(PrintAnswers(session, answers, *prediction));
  } else {
    THAW_RETURN_IF_ERROR(WriteFileAtomically(options.out, answers));
    if (session.json) Print("%s\n", JsonLine(*ended).c_str());
  }
  for (const char* name : {"accuracy", "macro_f1"}) {
    const auto value = ended->result_metrics().find(name);
    if (value != ended->result_metrics().end() && !session.json) {
      session.console->Line(absl::StrCat(name, " ", FormatMetric(name, value->second)));
    }
  }
  return kExitOk;
}

}  // namespace thaw
