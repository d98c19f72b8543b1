// Which rows form an optimizer step, and how a step is cut into micro-steps.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/data/data_order.h"
#include "worker/data/tokenized_dataset.h"

namespace thaw {

// How large a step is: exactly one of the first two is positive.
struct BatchPolicy {
  int32_t examples_per_step = 16;
  int32_t tokens_per_step = 0;  // as many rows as fit, at least one
  // A micro-step holds as many consecutive rows of its step as fit into this, at least one. It
  // bounds memory and changes neither which rows a step has nor their order.
  int32_t tokens_per_micro_step = 2048;
  // The rows are one text cut up, which examples_per_step lanes read side by side. With L = rows /
  // lanes, lane i is the rows from i * L + min(i, rows % lanes) on: L of them, and one more in the
  // first rows % lanes lanes, so that none is left out. Step t of every epoch is row t of each
  // lane, in their order; where the shorter ones have ended, that is the first few. Nothing is
  // shuffled: what was learnt of a lane's rows before belongs to the row that comes next.
  bool in_lanes = false;
};

// Where training is in its data: rows [0, position) of the epoch's order are done. In lanes the
// order is step by step, so that `position` is a multiple of their number.
struct DataCursor {
  int64_t epoch = 0;
  int64_t position = 0;
  bool operator==(const DataCursor&) const = default;
};

// One optimizer step. Row numbers refer to the dataset.
struct StepRows {
  std::vector<std::vector<int64_t>> micro_steps;
  int64_t examples = 0;
  int64_t tokens = 0;  // targets included
  int64_t loss_units = 0;
  // Where the following step begins: in the next epoch after the last row of this one.
  DataCursor next;
};

// Plans steps over a dataset, statelessly: any step can be had from its cursor alone. The last step
// of an epoch is smaller when the rows run out; a step never spans two epochs. Any thread may call.
class BatchPlan {
 public:
  // `dataset` must outlive the plan. INVALID_ARGUMENT for a policy out of its bounds,
  // FAILED_PRECONDITION for an empty dataset.
  static absl::StatusOr<BatchPlan> Create(const TokenizedDataset* dataset,
                                          const BatchPolicy& policy, uint64_t seed);

  // `cursor.position` must be below the dataset's rows.
  StepRows Step(const DataCursor& cursor) const;

  // Optimizer steps of one epoch. With tokens_per_step it depends on the epoch and costs a pass
  // over the rows.
  int64_t StepsInEpoch(int64_t epoch) const;

  // With examples_per_step: optimizer steps from the beginning of `epoch` to the first one that
  // brings their loss units to `units`, over as many epochs as that takes. Costs a pass over the
  // rows, whatever `units` is.
  int64_t StepsToLossUnits(int64_t epoch, int64_t units) const;

 private:
  BatchPlan(const TokenizedDataset* dataset, const BatchPolicy& policy, uint64_t seed)
      : dataset_(dataset), policy_(policy), seed_(seed) {}
  // The row visited at `position`.
  int64_t RowAt(const DataOrder& order, int64_t position) const;
  // The position after the last row of the step that begins at `begin`.
  int64_t StepEnd(const DataOrder& order, int64_t begin) const;

  const TokenizedDataset* dataset_;
  BatchPolicy policy_;
  uint64_t seed_;
};

// The steps of one epoch of a dataset with at least one row, in `lanes` lanes
// (BatchPolicy::in_lanes), cut into micro-steps of `tokens` tokens.
std::vector<StepRows> LaneSteps(const TokenizedDataset& dataset, int32_t lanes, int64_t tokens);

// Cuts `rows` into runs of at most `tokens` tokens each (a longer row stands alone), keeping their
// order.
std::vector<std::vector<int64_t>> CutByTokens(const TokenizedDataset& dataset,
                                              std::span<const int64_t> rows, int64_t tokens);

// All rows once, longest first and so with rows of similar length together, in batches of at most
// `tokens` tokens. PackedBatch::rows tells where each result belongs.
std::vector<std::vector<int64_t>> EvaluationBatches(const TokenizedDataset& dataset,
                                                    int64_t tokens);

}  // namespace thaw
