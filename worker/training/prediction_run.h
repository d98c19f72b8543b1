// A prediction attempt from its assignment to its end.
#pragma once

#include "thaw/internal/trainer.pb.h"
#include "worker/training/prediction_model.h"
#include "worker/training/training_run.h"

namespace thaw {

// Answers for every row of `run.assignment`, whose work is a prediction, and leaves the files of
// its task (docs/prediction.md) in work_dir/result. A pause leaves no checkpoint: a later attempt
// begins again. Failures are in what it returns, except LibTorch's exceptions and std::bad_alloc.
//
// `warm`, if given, holds the model of the prediction before: it is used where it is the same, and
// replaced where it is not.
internal::Ended RunPrediction(const internal::Run& run, const AttemptContext& context,
                              WarmModel* warm = nullptr);

}  // namespace thaw
