// A plan attempt from its assignment to its end.
#pragma once

#include "thaw/internal/trainer.pb.h"
#include "worker/training/training_run.h"

namespace thaw {

// Says what the training inside `run.assignment`, whose work is a plan, would take: plan.json, a
// v1::PlanReport, in work_dir/result. It takes the turns that the training would take, through the
// same code, but few of each kind: in every phase the largest micro-step, a sample of the first
// pass's optimizer steps, the beginning of an evaluation, a checkpoint, and in the end the result;
// what is written meanwhile is removed again. Time is that of the process, sample by sample, scaled
// by the work of the rows (plan_steps.h); memory is the peak of the process, phase by phase.
//
// A pause leaves no checkpoint: a later attempt begins again. Failures are in what it returns,
// those that the training would meet in its preparation or in a tried step among them, except
// LibTorch's exceptions and std::bad_alloc.
internal::Ended RunPlan(const internal::Run& run, const AttemptContext& context);

}  // namespace thaw
