#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/cli/answers.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/output.h"
#include "client/cli/prediction_spec.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "nlohmann/json.hpp"

namespace thaw {
namespace {

constexpr char kAnswersFile[] = "predictions.jsonl";
constexpr char kEmbeddingsFile[] = "embeddings.safetensors";
constexpr int64_t kMostAnswerBytes = int64_t{1} << 30;
constexpr int kNumbersShown = 4;

int RowsAsked(const v1::Prediction& prediction) {
  return prediction.texts().values_size() + prediction.examples().values_size();
}

// The text of a single row as it is generated, right on the screen.
class LiveText {
 public:
  explicit LiveText(bool wanted) : wanted_(wanted) {}

  // Whether the event was for it.
  bool Show(const v1::Event& event) {
    if (!wanted_ || !event.has_generated_text() || event.generated_text().row() != 0) return false;
    if (event.attempt() != attempt_ && !shown_.empty()) {
      Print("\n");
      shown_.clear();
    }
    attempt_ = event.attempt();
    shown_ += event.generated_text().text();
    Print("%s", event.generated_text().text().c_str());
    std::fflush(stdout);
    return true;
  }

  // `text` is all of it: prints what has not been shown yet.
  void End(const std::string& text) {
    if (!absl::StartsWith(text, shown_)) {
      Print("\n");
      shown_.clear();
    }
    Print("%s\n", text.substr(shown_.size()).c_str());
  }

  bool any() const { return !shown_.empty(); }

 private:
  const bool wanted_;
  int32_t attempt_ = 0;
  std::string shown_;
};

// A generated text beside others stays on its line.
std::string OnOneLine(std::string text) {
  for (char& c : text) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  return text;
}

absl::Status PrintAnswers(const Session& session, const std::string& answers,
                          const v1::Prediction& prediction, LiveText* live) {
  for (const absl::string_view line : absl::StrSplit(answers, '\n', absl::SkipEmpty())) {
    if (session.json) {
      Print("%.*s\n", static_cast<int>(line.size()), line.data());
      continue;
    }
    THAW_ASSIGN_OR_RETURN(const std::string readable, ReadableAnswer(line, prediction));
    if (prediction.has_generate() && RowsAsked(prediction) == 1) {
      live->End(readable);
    } else {
      Print("%s\n", OnOneLine(readable).c_str());
    }
  }
  return absl::OkStatus();
}

// The first numbers of each vector; with --json all of them.
absl::Status PrintEmbeddings(const Session& session, const std::string& bytes,
                             const v1::Prediction& prediction) {
  THAW_ASSIGN_OR_RETURN(const std::vector<std::vector<float>> embeddings, ReadEmbeddings(bytes));
  for (size_t row = 0; row < embeddings.size(); ++row) {
    if (session.json) {
      const nlohmann::ordered_json line = {{"row", row}, {"embedding", embeddings[row]}};
      Print("%s\n", line.dump().c_str());
      continue;
    }
    std::vector<std::string> numbers;
    for (const float number : embeddings[row]) {
      if (static_cast<int>(numbers.size()) == kNumbersShown) break;
      numbers.push_back(FormatNumber(number));
    }
    const std::string asked = AskedText(prediction, static_cast<int64_t>(row));
    Print("[%s%s] %zu numbers%s%s\n", absl::StrJoin(numbers, ", ").c_str(),
          numbers.size() < embeddings[row].size() ? ", …" : "", embeddings[row].size(),
          asked.empty() ? "" : "  ", asked.c_str());
  }
  return absl::OkStatus();
}

void ShowMetrics(const Session& session, const v1::Job& job) {
  if (session.json) return;
  for (const char* name :
       {"accuracy", "macro_f1", "micro_f1", "matthews_correlation", "mean_squared_error", "pearson",
        "spearman", "perplexity", "tokens_per_second"}) {
    const auto value = job.result_metrics().find(name);
    if (value == job.result_metrics().end()) continue;
    session.console->Line(absl::StrCat(name, " ", FormatMetric(name, value->second)));
  }
}

}  // namespace

ExitCode RunPredict(const Session& session, const PredictOptions& options) {
  v1::CreateJobRequest request;
  v1::Prediction* prediction = request.mutable_spec()->mutable_prediction();
  THAW_RETURN_IF_ERROR(WritePrediction(session, options, prediction));

  THAW_ASSIGN_OR_RETURN(const v1::Job job, session.client->jobs().CreateJob(request));
  LiveText live(prediction->has_generate() && RowsAsked(*prediction) == 1 && !session.json &&
                options.out.empty());
  const absl::StatusOr<v1::Job> ended =
      AwaitJob(session, job.id(), [&](const v1::Event& event) { return live.Show(event); });
  if (live.any() && !ended.ok()) Print("\n");
  if (absl::IsCancelled(ended.status())) return kExitInterrupted;
  if (!ended.ok()) return ended.status();
  if (ended->state() != v1::Job::SUCCEEDED) {
    if (live.any()) Print("\n");
    return absl::AbortedError(
        absl::StrCat(job.id(), " ", v1::Job::State_Name(ended->state()), ": ",
                     ended->has_failure() ? ended->failure().message() : ended->state_reason()));
  }
  const char* file = prediction->has_embed() ? kEmbeddingsFile : kAnswersFile;
  THAW_ASSIGN_OR_RETURN(const v1::Artifact result,
                        session.client->artifacts().GetArtifact(ended->result()));
  THAW_ASSIGN_OR_RETURN(const std::string answers,
                        session.client->artifacts().ReadFile(result, file, kMostAnswerBytes));
  if (!options.out.empty()) {
    THAW_RETURN_IF_ERROR(WriteFileAtomically(options.out, answers));
    if (session.json) Print("%s\n", JsonLine(*ended).c_str());
  } else if (prediction->has_embed()) {
    THAW_RETURN_IF_ERROR(PrintEmbeddings(session, answers, *prediction));
  } else {
    THAW_RETURN_IF_ERROR(PrintAnswers(session, answers, *prediction, &live));
  }
  ShowMetrics(session, *ended);
  return kExitOk;
}

}  // namespace thaw
