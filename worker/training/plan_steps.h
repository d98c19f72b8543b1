// Which optimizer steps of a phase a plan tries, and how much of everything the whole phase is.
// Pure: no clock, no tensors.
#pragma once

#include <cstdint>
#include <vector>

#include "worker/data/batch_plan.h"
#include "worker/tuning/program.h"

namespace thaw {

// What training on rows costs, up to a factor: their tokens, and of each row length² / (6 · width)
// more, which is the share of attention in a block of the usual shape (arXiv 2001.08361, table 1).
struct RowWork {
  const TokenizedDataset* dataset = nullptr;
  int64_t width = 0;  // ModelConfig::hidden_size

  double Of(int64_t row) const;
  double Of(const StepRows& step) const;
  double OfAll() const;
};

struct PhaseSteps {
  int64_t tokens = 0;  // of all steps
  double work = 0;
  // The micro-step of the most tokens, and among those of the longest rows.
  std::vector<int64_t> largest;
  // Of the first pass: where each step begins, the least work first.
  struct Step {
    DataCursor cursor;
    double work = 0;
  };
  std::vector<Step> first_pass;
};

// Of the `steps` steps from the beginning of `epoch` on, in passes of `in_epoch` steps. With no
// steps (a phase that ends by the clock) of one pass, but without tokens and work. `largest` is
// sought in at most 20 passes.
PhaseSteps StepsOfPhase(const BatchPlan& plan, const RowWork& rows, int64_t epoch, int64_t steps,
                        int64_t in_epoch);

// `count` of the steps, one from the middle of each of as many equal parts of them, in the order of
// the data; all of them if there are no more.
std::vector<PhaseSteps::Step> Sample(const std::vector<PhaseSteps::Step>& steps, int64_t count);

// What a phase does beside its steps.
struct PhaseTurns {
  int64_t evaluations = 0;
  int64_t checkpoints = 0;  // that at its end included
};

// Of the phase that `program` has just entered and that has so many steps behind the first `begin`
// ones of the job, if no evaluation ends it early. `every`: CheckpointPolicy::every_steps.
PhaseTurns TurnsOfPhase(Program program, int64_t begin, int64_t steps, int64_t every);

}  // namespace thaw
