#include "worker/training/prediction_run.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "nlohmann/json.hpp"
#include "worker/model/model.h"
#include "worker/training/classification_metrics.h"
#include "worker/training/evaluation.h"
#include "worker/training/failure.h"
#include "worker/training/prediction_inputs.h"
#include "worker/training/reporter.h"

namespace thaw {
namespace {

// Without autograd a batch takes little: large ones keep the GEMMs busy.
constexpr int64_t kPredictionTokens = 4096;

// {"row", "label", "score", "scores": {label: probability}, "logits": […]}
std::string PredictionLine(int64_t row, std::span<const float> logits,
                           const std::vector<std::string>& labels) {
  const std::vector<double> scores = Softmax(logits);
  const size_t best = std::max_element(logits.begin(), logits.end()) - logits.begin();
  nlohmann::ordered_json line = {{"row", row}, {"label", labels[best]}, {"score", scores[best]}};
  nlohmann::ordered_json& by_label = line["scores"] = nlohmann::ordered_json::object();
  for (size_t i = 0; i < labels.size(); ++i) by_label[labels[i]] = scores[i];
  line["logits"] = std::vector<float>(logits.begin(), logits.end());
  return line.dump();
}

absl::Status WritePredictions(const std::string& path, const torch::Tensor& logits,
                              const std::vector<std::string>& labels) {
  std::ofstream file(path, std::ios::binary);
  for (int64_t row = 0; row < logits.size(0); ++row) {
    file << PredictionLine(row, LogitsOfRow(logits, row), labels) << '\n';
  }
  file.close();
  if (!file) return absl::ResourceExhaustedError(absl::StrCat(path, " cannot be written"));
  return absl::OkStatus();
}

internal::Ended EndedAs(v1::AttemptEnd::Outcome outcome) {
  internal::Ended ended;
  ended.mutable_end()->set_outcome(outcome);
  return ended;
}

absl::StatusOr<internal::Ended> Predict(const internal::Run& run, const AttemptContext& context) {
  Reporter reporter(context.sink, context.clock, context.point_interval_seconds);
  reporter.Beat();
  THAW_ASSIGN_OR_RETURN(auto model, LoadModel(run.model_dir(), std::nullopt));
  if (model->config().head != HeadKind::kClassifier) {
    return InvalidField(
        "prediction.model",
        "it has no classifier: give a result of a text classification, or train this "
        "model first");
  }
  const double loaded = reporter.SecondsSinceStart();
  reporter.Log(
      absl::StrFormat("model loaded: %d labels, in %.1f s", model->config().labels.size(), loaded));
  // The logits of others are no distribution over the labels.
  if (const ProblemType problem = model->config().problem; problem != ProblemType::kSingleLabel) {
    return InvalidField(
        "prediction.model",
        absl::StrCat(
            "its config.json says ",
            problem == ProblemType::kRegression ? "regression" : "multi_label_classification",
            "; give a model for single_label_classification, or train this one first"));
  }
  const std::vector<std::string>& labels = model->config().labels;
  THAW_ASSIGN_OR_RETURN(
      const PredictionInputs inputs,
      ReadPredictionInputs(run, model->config(), at::get_num_threads(), [&] { reporter.Beat(); }));
  const TokenizedDataset& rows = inputs.rows;
  if (rows.rows() == 0) return absl::FailedPreconditionError("there are no rows to answer for");
  if (rows.truncated_rows > 0) {
    reporter.Warn("ROWS_TRUNCATED", absl::StrCat(rows.truncated_rows, " of ", rows.rows(),
                                                 " rows are longer than max_length and were cut"));
  }
  reporter.Log(absl::StrFormat("rows tokenized: %d with %d tokens, in %.1f s", rows.rows(),
                               rows.tokens(), reporter.SecondsSinceStart() - loaded));
  reporter.progress().set_rows_total(rows.rows());
  const auto logits = AllLogits(
      model.get(), rows, kPredictionTokens / std::max(run.assignment().micro_step_divisor(), 1),
      [&](int64_t done) {
        reporter.progress().set_rows_done(done);
        const double seconds = reporter.SecondsSinceStart();
        if (done > 0) {
          reporter.progress().set_eta_seconds(seconds / static_cast<double>(done) *
                                              static_cast<double>(rows.rows() - done));
        }
        reporter.Beat();
        context.control->AtBoundary([&] { reporter.Beat(); });
        return !context.control->ShouldEnd();
      });
  if (!logits) {
    const bool stop = context.control->AtBoundary([] {}).stop;
    return EndedAs(stop ? v1::AttemptEnd::STOPPED : v1::AttemptEnd::PAUSED);
  }
  reporter.progress().set_rows_done(rows.rows());
  reporter.progress().set_eta_seconds(0);
  reporter.BeatNow();
  internal::Ended ended = EndedAs(v1::AttemptEnd::SUCCEEDED);
  ended.set_result_dir("result");
  const std::string directory = run.work_dir() + "/" + ended.result_dir();
  THAW_RETURN_IF_ERROR(MakeDirectories(directory));
  THAW_RETURN_IF_ERROR(WritePredictions(directory + "/predictions.jsonl", *logits, labels));
  reporter.Log(absl::StrFormat("result written: %d answers", rows.rows()));
  auto& metrics = *ended.mutable_metrics();
  if (inputs.labelled) {
    const std::map<std::string, double> values = Evaluate(*logits, rows);
    metrics.insert(values.begin(), values.end());
  }
  metrics["rows"] = static_cast<double>(rows.rows());
  metrics["tokens"] = static_cast<double>(rows.tokens());
  metrics["seconds"] = reporter.SecondsSinceStart();
  return ended;
}

}  // namespace

internal::Ended RunPrediction(const internal::Run& run, const AttemptContext& context) {
  absl::StatusOr<internal::Ended> ended = Predict(run, context);
  return ended.ok() ? *std::move(ended) : FailedEnd(ended.status(), 0);
}

}  // namespace thaw
