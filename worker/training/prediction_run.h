// A prediction attempt from its assignment to its end.
#pragma once

#include "thaw/internal/trainer.pb.h"
#include "worker/training/training_run.h"

namespace thaw {

// Answers for every row of `run.assignment`, whose work is a prediction, and leaves
// work_dir/result/predictions.jsonl. A pause leaves no checkpoint: a later attempt begins again.
// Failures are in what it returns, except LibTorch's exceptions and std::bad_alloc.
internal::Ended RunPrediction(const internal::Run& run, const AttemptContext& context);

}  // namespace thaw
