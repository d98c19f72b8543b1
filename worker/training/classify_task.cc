// Labels with probabilities, or numbers.
#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/training/classification_metrics.h"
#include "worker/training/evaluation.h"
#include "worker/training/inference.h"
#include "worker/training/multi_label_metrics.h"
#include "worker/training/prediction_task.h"

namespace thaw {
namespace {

// Without autograd a batch takes little: large ones keep the GEMMs busy.
constexpr int64_t kClassifyTokens = 4096;
constexpr double kDecided = 0.5;  // from this probability on a label of several is set

using ProbabilityRows = std::vector<std::vector<double>>;

std::vector<double> Probabilities(std::span<const float> logits, ProblemType problem) {
  if (problem == ProblemType::kSingleLabel) return Softmax(logits);
  std::vector<double> result;
  for (const float logit : logits) result.push_back(1 / (1 + std::exp(-double{logit})));
  return result;
}

// Adds what another model says of the same rows. False when told to end.
absl::StatusOr<bool> AddModel(PredictionTask* task, const std::string& directory, int index,
                              ProbabilityRows* sums) {
  absl::StatusOr<PredictionModel> loaded = LoadModelAsIs(task->run, directory);
  const std::string field = absl::StrCat("prediction.classify.average_with[", index, "]");
  if (!loaded.ok()) return Annotate(loaded.status(), field);
  const ModelConfig &ours = task->loaded.model->config(), &theirs = loaded->model->config();
  if (theirs.head != HeadKind::kClassifier || theirs.problem != ours.problem ||
      theirs.labels != ours.labels) {
    return InvalidField(field,
                        "it does not have the labels of prediction.model; give a model of "
                        "the same labels in the same order");
  }
  THAW_ASSIGN_OR_RETURN(const PredictionInputs inputs, ReadClassifyInputs(task->Reading(*loaded)));
  const double models = task->run.average_with_dirs_size() + 1;
  const auto logits =
      AllLogits(loaded->model.get(), inputs.rows, task->Halved(kClassifyTokens), [&](int64_t done) {
        return task->GoOn(
            (index + 1 + static_cast<double>(done) / static_cast<double>(inputs.rows.rows())) /
            models);
      });
  if (!logits) return false;
  for (size_t row = 0; row < sums->size(); ++row) {
    const std::span<const float> outputs = LogitsOfRow(*logits, static_cast<int64_t>(row));
    if (const absl::Status status = CheckOutputs(outputs, static_cast<int64_t>(row));
        !status.ok()) {
      return Annotate(status, field);
    }
    const std::vector<double> added = Probabilities(outputs, theirs.problem);
    for (size_t i = 0; i < added.size(); ++i) (*sums)[row][i] += added[i];
  }
  return true;
}

nlohmann::ordered_json ClassifiedLine(int64_t row, const std::vector<double>& scores,
                                      std::span<const float> logits, const ModelConfig& config) {
  nlohmann::ordered_json line = {{"row", row}};
  if (config.problem == ProblemType::kRegression) {
    line["value"] = logits[0];
    return line;
  }
  if (config.problem == ProblemType::kSingleLabel) {
    const size_t best = std::max_element(scores.begin(), scores.end()) - scores.begin();
    line["label"] = config.labels[best];
    line["score"] = scores[best];
  } else {
    line["labels"] = nlohmann::ordered_json::array();
    for (size_t i = 0; i < scores.size(); ++i) {
      if (scores[i] >= kDecided) line["labels"].push_back(config.labels[i]);
    }
  }
  nlohmann::ordered_json& by_label = line["scores"] = nlohmann::ordered_json::object();
  for (size_t i = 0; i < scores.size(); ++i) by_label[config.labels[i]] = scores[i];
  line["logits"] = std::vector<float>(logits.begin(), logits.end());
  return line;
}

// Logits that give these probabilities.
torch::Tensor LogitsFor(const ProbabilityRows& rows, ProblemType problem) {
  const auto width = static_cast<int64_t>(rows[0].size());
  torch::Tensor logits = at::empty({static_cast<int64_t>(rows.size()), width});
  auto* out = logits.mutable_data_ptr<float>();
  for (const std::vector<double>& row : rows) {
    for (const double p : row) {
      *out++ = static_cast<float>(
          problem == ProblemType::kSingleLabel ? std::max(std::log(p), -100.0) : LogitOf(p));
    }
  }
  return logits;
}

absl::Status CheckClassifier(const PredictionTask& task) {
  const ModelConfig& config = task.loaded.model->config();
  if (config.head != HeadKind::kClassifier) {
    return InvalidField("prediction.model",
                        "it has no classifier: give a result of a text classification or a "
                        "regression, or train this model first");
  }
  if (config.problem != ProblemType::kRegression) return absl::OkStatus();
  if (config.labels.size() > 1) {
    return InvalidField("prediction.model",
                        absl::StrCat("it has ", config.labels.size(),
                                     " outputs of a regression; give one with a single output"));
  }
  if (task.run.average_with_dirs_size() > 0) {
    return InvalidField("prediction.classify.average_with",
                        "it averages probabilities, and a regression has none; leave it out");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<bool> Classify(PredictionTask* task) {
  THAW_RETURN_IF_ERROR(CheckClassifier(*task));
  const ModelConfig& config = task->loaded.model->config();
  THAW_ASSIGN_OR_RETURN(const PredictionInputs inputs,
                        ReadClassifyInputs(task->Reading(task->loaded)));
  const TokenizedDataset& rows = inputs.rows;
  THAW_RETURN_IF_ERROR(task->Begin(rows.rows(), rows.truncated_rows));
  const int models = task->run.average_with_dirs_size() + 1;
  const auto logits = AllLogits(task->loaded.model.get(), rows, task->Halved(kClassifyTokens),
                                [&](int64_t done) { return task->GoOnRows(done / models); });
  if (!logits) return false;
  ProbabilityRows scores;
  for (int64_t row = 0; row < rows.rows(); ++row) {
    const std::span<const float> outputs = LogitsOfRow(*logits, row);
    THAW_RETURN_IF_ERROR(CheckOutputs(outputs, row));
    scores.push_back(Probabilities(outputs, config.problem));
  }
  for (int i = 0; i < task->run.average_with_dirs_size(); ++i) {
    THAW_ASSIGN_OR_RETURN(const bool all,
                          AddModel(task, task->run.average_with_dirs(i), i, &scores));
    if (!all) return false;
  }
  for (std::vector<double>& row : scores) {
    for (double& score : row) score /= models;
  }
  PredictionLines lines(task->directory);
  for (int64_t row = 0; row < rows.rows(); ++row) {
    lines.Add(
        ClassifiedLine(row, scores[static_cast<size_t>(row)], LogitsOfRow(*logits, row), config));
  }
  THAW_RETURN_IF_ERROR(lines.Close());
  if (inputs.labelled) {
    const EvaluationFigures figures =
        Evaluate(models == 1 ? *logits : LogitsFor(scores, config.problem), rows);
    task->metrics.insert(figures.values.begin(), figures.values.end());
  }
  task->metrics["tokens"] = static_cast<double>(rows.tokens());
  return true;
}

}  // namespace thaw
