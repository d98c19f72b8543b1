// One attempt, whatever it is and however it ends.
#pragma once

#include <functional>

#include "thaw/internal/trainer.pb.h"
#include "worker/trainer/frame_sink.h"
#include "worker/training/prediction_model.h"
#include "worker/training/training_run.h"

namespace thaw {

// What this trainer computes on; work placed on anything else fails at once.
inline constexpr v1::Resources::DeviceKind kComputesOn[] = {v1::Resources::CPU};

// Runs the training or prediction of `run`. The one place where LibTorch's exceptions end: memory
// that cannot be had becomes OUT_OF_MEMORY, anything else a failure of Thaw's. A prediction uses
// the model in `warm` if it is the same and leaves its own there.
internal::Ended RunAssignment(const internal::Run& run, const AttemptContext& context,
                              WarmModel* warm);

// Calls `attempt` and turns what it throws into an end at `step()`.
internal::Ended CatchExceptions(const std::function<internal::Ended()>& attempt,
                                const std::function<int64_t()>& step);

}  // namespace thaw
