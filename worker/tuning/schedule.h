// How a learning rate moves over one phase, or over a whole job.
#pragma once

#include <cstdint>

#include "thaw/v1/job_spec.pb.h"

namespace thaw {

// The share of the peak rate, 0 to 1, at which optimizer step `step` (from 0) of `steps` is taken;
// 0
// <= step < steps, and the unit is always the optimizer step. Constant rates do not ask for `steps`
// unless they warm up over a share of them.
//
//   warm-up of w steps   step / w: the first one is taken at rate 0, as transformers does; w is
//                        warmup_steps or ceil(steps warmup_fraction)
//   constant             1
//   linear               (steps - step) / (steps - w)
//   cosine               (1 + cos(pi (step - w) / (steps - w))) / 2
//   slanted triangular   ULMFiT (arXiv 1801.06146v5, equation 3), with T = steps:
//                        cut = floor(T cut_fraction)
//                        p = step / cut                                  if step < cut
//                        p = 1 - (step - cut) / (cut (1/cut_fraction - 1)) otherwise
//                        share = (1 + p (ratio - 1)) / ratio
//   one cycle            arXiv 1803.09820, with halves of cosines as fastai has them, cut = steps
//                        cut_fraction (not rounded):
//                        1/ratio + (1 - 1/ratio) (1 - cos(pi step / cut)) / 2      if step < cut,
//                        then with q = (step - cut) / (steps - cut)
//                        1/final_ratio + (1 - 1/final_ratio) (1 + cos(pi q)) / 2
// Two guards on slanted triangular: a phase too short for a rising part (cut = 0) has p = 1 - step
// / (T (1
// - cut_fraction)), and p never falls below 0, which the floor in `cut` would otherwise allow.
double RateShare(const v1::Schedule& schedule, int64_t step, int64_t steps);

}  // namespace thaw
