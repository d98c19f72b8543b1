// Log-probabilities of given texts and completions.
#include <cmath>
#include <utility>

#include "common/base/status.h"
#include "worker/model/decoder_start.h"
#include "worker/training/inference.h"
#include "worker/training/prediction_task.h"
#include "worker/training/scoring.h"

namespace thaw {
namespace {

constexpr int64_t kScoreTokens = 4096;

// What the model rules out is infinitely improbable, which has no form in JSON.
nlohmann::ordered_json Finite(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

double Perplexity(double log_probability, int64_t tokens) {
  return std::exp(-log_probability / static_cast<double>(tokens));
}

}  // namespace

absl::StatusOr<bool> ScoreRows(PredictionTask* task) {
  Model* model = task->loaded.model.get();
  THAW_RETURN_IF_ERROR(CheckWritesText(model->config()));
  THAW_ASSIGN_OR_RETURN(const int32_t start, task->loaded.decoder_start);
  THAW_ASSIGN_OR_RETURN(const ScoreInputs inputs, ReadScoreInputs(task->Reading(task->loaded)));
  const auto rows = static_cast<int64_t>(inputs.rows.size());
  THAW_RETURN_IF_ERROR(task->Begin(rows, inputs.truncated_rows));
  const auto scores = Score(model, inputs.rows, start, task->Halved(kScoreTokens),
                            [&](int64_t done) { return task->GoOnRows(done); });
  if (!scores) return false;
  PredictionLines lines(task->directory);
  double total = 0;
  int64_t total_tokens = 0;
  for (size_t row = 0; row < scores->size(); ++row) {
    const std::vector<float>& values = (*scores)[row];
    const auto tokens = static_cast<int64_t>(values.size());
    double sum = 0;
    for (const float value : values) sum += value;
    if (std::isnan(sum)) return OutputNotANumber(static_cast<int64_t>(row));
    nlohmann::ordered_json line = {
        {"row", row}, {"log_probability", Finite(sum)}, {"tokens", tokens}};
    line["perplexity"] = Finite(Perplexity(sum, tokens));
    if (!inputs.texts.empty()) {
      line["token_texts"] = inputs.texts[row];
      auto& list = line["token_log_probabilities"] = nlohmann::ordered_json::array();
      for (const float value : values) list.push_back(Finite(value));
    }
    lines.Add(line);
    total += sum;
    total_tokens += tokens;
  }
  THAW_RETURN_IF_ERROR(lines.Close());
  task->metrics["tokens"] = static_cast<double>(total_tokens);
  if (total_tokens > 0 && std::isfinite(total)) {
    task->metrics["log_probability"] = total;
    if (const double all = Perplexity(total, total_tokens); std::isfinite(all)) {
      task->metrics["perplexity"] = all;
    }
  }
  return true;
}

}  // namespace thaw
