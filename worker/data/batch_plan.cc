#include "worker/data/batch_plan.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace thaw {

absl::StatusOr<BatchPlan> BatchPlan::Create(const TokenizedDataset* dataset,
                                            const BatchPolicy& policy, uint64_t seed) {
  if (dataset->rows() == 0) return absl::FailedPreconditionError("the dataset has no examples");
  if (policy.examples_per_step < 0 || policy.tokens_per_step < 0 ||
      (policy.examples_per_step > 0) == (policy.tokens_per_step > 0)) {
    return InvalidField("batch", absl::StrCat("examples_per_step is ", policy.examples_per_step,
                                              " and tokens_per_step ", policy.tokens_per_step,
                                              ": exactly one must be positive, the other 0"));
  }
  if (policy.in_lanes && policy.examples_per_step == 0) {
    return InvalidField("batch.examples_per_step",
                        "is 0, but joined texts are read in as many lanes: it must be positive");
  }
  if (policy.tokens_per_micro_step <= 0) {
    return InvalidField("batch.tokens_per_micro_step",
                        absl::StrCat("is ", policy.tokens_per_micro_step, ", must be positive"));
  }
  return BatchPlan(dataset, policy, seed);
}

int64_t BatchPlan::RowAt(const DataOrder& order, int64_t position) const {
  if (!policy_.in_lanes) return order[position];
  const int64_t rows = dataset_->rows(), lanes = policy_.examples_per_step;
  const int64_t lane = position % lanes;
  return lane * (rows / lanes) + std::min(lane, rows % lanes) + position / lanes;
}

int64_t BatchPlan::StepEnd(const DataOrder& order, int64_t begin) const {
  const int64_t rows = dataset_->rows();
  if (policy_.examples_per_step > 0) return std::min(begin + policy_.examples_per_step, rows);
  int64_t tokens = dataset_->size(order[begin]);
  int64_t end = begin + 1;
  for (; end < rows; ++end) {
    tokens += dataset_->size(order[end]);
    if (tokens > policy_.tokens_per_step) break;
  }
  return end;
}

StepRows BatchPlan::Step(const DataCursor& cursor) const {
  const DataOrder order(dataset_->rows(), seed_, cursor.epoch);
  const int64_t end = StepEnd(order, cursor.position);
  std::vector<int64_t> rows;
  StepRows step;
  for (int64_t position = cursor.position; position < end; ++position) {
    rows.push_back(RowAt(order, position));
    step.tokens += dataset_->size(rows.back());
    step.loss_units += dataset_->loss_units(rows.back());
  }
  step.examples = static_cast<int64_t>(rows.size());
  step.micro_steps = CutByTokens(*dataset_, rows, policy_.tokens_per_micro_step);
  step.next =
      end == dataset_->rows() ? DataCursor{cursor.epoch + 1, 0} : DataCursor{cursor.epoch, end};
  return step;
}

int64_t BatchPlan::StepsInEpoch(int64_t epoch) const {
  const int64_t rows = dataset_->rows();
  if (policy_.examples_per_step > 0) {
    return (rows + policy_.examples_per_step - 1) / policy_.examples_per_step;
  }
  const DataOrder order(rows, seed_, epoch);
  int64_t steps = 0;
  for (int64_t begin = 0; begin < rows; begin = StepEnd(order, begin)) ++steps;
  return steps;
}

int64_t BatchPlan::StepsToLossUnits(int64_t epoch, int64_t units) const {
  int64_t in_epoch = 0;
  for (int64_t row = 0; row < dataset_->rows(); ++row) in_epoch += dataset_->loss_units(row);
  const int64_t whole = (units - 1) / std::max<int64_t>(in_epoch, 1);
  int64_t steps = whole * StepsInEpoch(epoch);
  int64_t left = units - whole * in_epoch;
  const DataOrder order(dataset_->rows(), seed_, epoch + whole);
  for (int64_t position = 0; left > 0 && position < dataset_->rows(); ++steps) {
    const int64_t end = StepEnd(order, position);
    for (; position < end; ++position) left -= dataset_->loss_units(RowAt(order, position));
  }
  return steps;
}

std::vector<StepRows> LaneSteps(const TokenizedDataset& dataset, int32_t lanes, int64_t tokens) {
  const auto most = static_cast<int64_t>(std::numeric_limits<int32_t>::max());
  const BatchPlan plan =
      *BatchPlan::Create(&dataset,
                         {.examples_per_step = lanes,
                          .tokens_per_micro_step = static_cast<int32_t>(std::min(tokens, most)),
                          .in_lanes = true},
                         /*seed=*/0);
  std::vector<StepRows> steps;
  for (DataCursor cursor; cursor.epoch == 0; cursor = steps.back().next) {
    steps.push_back(plan.Step(cursor));
  }
  return steps;
}

std::vector<std::vector<int64_t>> CutByTokens(const TokenizedDataset& dataset,
                                              std::span<const int64_t> rows, int64_t tokens) {
  std::vector<std::vector<int64_t>> runs;
  int64_t room = 0;
  for (const int64_t row : rows) {
    if (runs.empty() || dataset.size(row) > room) {
      runs.emplace_back();
      room = tokens;
    }
    runs.back().push_back(row);
    room -= dataset.size(row);
  }
  return runs;
}

std::vector<std::vector<int64_t>> EvaluationBatches(const TokenizedDataset& dataset,
                                                    int64_t tokens) {
  std::vector<int64_t> rows(static_cast<size_t>(dataset.rows()));
  std::iota(rows.begin(), rows.end(), 0);
  std::stable_sort(rows.begin(), rows.end(),
                   [&](int64_t a, int64_t b) { return dataset.size(a) > dataset.size(b); });
  return CutByTokens(dataset, rows, tokens);
}

}  // namespace thaw
