#include "worker/training/evaluation.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "worker/data/batch_plan.h"
#include "worker/data/packed_batch.h"
#include "worker/training/carried_state.h"
#include "worker/training/classification_metrics.h"
#include "worker/training/forward.h"
#include "worker/training/multi_label_metrics.h"
#include "worker/training/regression_metrics.h"

namespace thaw {

std::optional<torch::Tensor> AllLogits(Model* model, const TokenizedDataset& dataset,
                                       int64_t tokens_per_batch,
                                       const std::function<bool(int64_t rows_done)>& go_on,
                                       ActivationCache* frozen) {
  const auto classes = static_cast<int64_t>(model->config().labels.size());
  torch::Tensor result = torch::empty({dataset.rows(), classes}, torch::kFloat32);
  auto* out = result.mutable_data_ptr<float>();
  int64_t done = 0;
  for (const std::vector<int64_t>& rows : EvaluationBatches(dataset, tokens_per_batch)) {
    if (!go_on(done)) return std::nullopt;
    const PackedBatch batch = Pack(dataset, rows);
    const torch::Tensor logits = Logits(model, batch, TrainedGroups(), DropoutKey(), frozen);
    for (int64_t i = 0; i < batch.sequences(); ++i) {
      const std::span<const float> row = LogitsOfRow(logits, i);
      std::copy(row.begin(), row.end(), out + batch.rows[i] * classes);
    }
    done += batch.sequences();
  }
  return result;
}

EvaluationFigures Evaluate(const torch::Tensor& logits, const TokenizedDataset& dataset) {
  const int classes = static_cast<int>(logits.size(1));
  if (!dataset.numbers.empty()) {
    RegressionMetrics metrics;
    for (int64_t row = 0; row < dataset.rows(); ++row) {
      metrics.Add(LogitsOfRow(logits, row)[0], dataset.numbers[row]);
    }
    return {metrics.Values(), {}};
  }
  if (!dataset.label_sets.empty()) {
    MultiLabelMetrics metrics(classes);
    for (int64_t row = 0; row < dataset.rows(); ++row) {
      metrics.Add(LogitsOfRow(logits, row), dataset.label_sets[row]);
    }
    return {metrics.Values(), {}};
  }
  ClassificationMetrics metrics(classes);
  for (int64_t row = 0; row < dataset.rows(); ++row) {
    metrics.Add(LogitsOfRow(logits, row), dataset.labels[row]);
  }
  return {metrics.Values(), metrics.confusion()};
}

std::optional<std::map<std::string, double>> EvaluateTokens(
    Model* model, const TokenizedDataset& dataset, int64_t tokens_per_batch, int32_t lanes,
    const std::function<bool(int64_t rows_done)>& go_on, ActivationCache* frozen) {
  const torch::NoGradGuard no_grad;
  std::vector<double> sums(static_cast<size_t>(dataset.rows()));
  int64_t done = 0, units = 0;
  const auto add = [&](const std::vector<int64_t>& rows, SequenceState* state) {
    if (!go_on(done)) return false;
    const PackedBatch batch = Pack(dataset, rows);
    const torch::Tensor states =
        LossStates(model, batch, TrainedGroups(), DropoutKey(), state, frozen);
    const OutputLayer output = model->output_layer();
    const torch::Tensor values = LinearLogProbabilities(PathFor(states), states, output.weight,
                                                        output.bias, NextIds(batch), output.half);
    const float* value = values.const_data_ptr<float>();
    for (const int64_t row : rows) {
      const int64_t count = dataset.loss_units(row);
      for (int64_t i = 0; i < count; ++i) sums[static_cast<size_t>(row)] -= *value++;
      units += count;
    }
    done += batch.sequences();
    return true;
  };
  if (lanes == 0) {
    for (const std::vector<int64_t>& rows : EvaluationBatches(dataset, tokens_per_batch)) {
      if (!add(rows, nullptr)) return std::nullopt;
    }
  } else {
    CarriedState carried(model->blocks());
    for (const StepRows& step : LaneSteps(dataset, lanes, tokens_per_batch)) {
      for (const std::vector<int64_t>& rows : step.micro_steps) {
        SequenceState state = carried.NextLanes(static_cast<int64_t>(rows.size()));
        if (!add(rows, &state)) return std::nullopt;
        carried.Put(std::move(state));
      }
      carried.StepDone();
    }
  }
  // In row order, so that the cutting into batches changes nothing.
  const double loss = std::accumulate(sums.begin(), sums.end(), 0.0) / static_cast<double>(units);
  return std::map<std::string, double>{{"loss", loss}, {"perplexity", std::exp(loss)}};
}

std::span<const float> LogitsOfRow(const torch::Tensor& logits, int64_t row) {
  const int64_t classes = logits.size(1);
  return {logits.const_data_ptr<float>() + row * classes, static_cast<size_t>(classes)};
}

}  // namespace thaw
