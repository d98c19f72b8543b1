// What `thaw predict` asks for: options into a Prediction.
#pragma once

#include "absl/status/status.h"
#include "client/cli/commands.h"
#include "thaw/v1/job_spec.pb.h"

namespace thaw {

// Fills model, task and input; uploads a JSON Lines file as a dataset. The task is the one that a
// flag names, or else what the model is made for: labels, new text, or vectors where it has no
// head. INVALID_ARGUMENT for options that contradict each other or the task.
absl::Status WritePrediction(const Session& session, const PredictOptions& options,
                             v1::Prediction* prediction);

}  // namespace thaw
