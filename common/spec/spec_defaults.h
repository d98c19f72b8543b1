// Inside common/spec: the defaults that job_spec.proto promises.
#pragma once

#include "common/spec/spec.h"

namespace thaw {

// `spec` with every default filled in. `model` is the model of the training or prediction, null
// while it is not known.
v1::JobSpec WithDefaults(const v1::JobSpec& spec, const v1::Artifact* model,
                         const SpecContext& context);

}  // namespace thaw
