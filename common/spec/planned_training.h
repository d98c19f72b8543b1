// The training inside a spec, whether it is to run or to be planned: a plan is checked, resolved
// and given its inputs exactly as its training would be.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "thaw/v1/job_spec.pb.h"

namespace thaw {

// Of a training or a plan; null for any other work.
const v1::Training* TrainingOf(const v1::JobSpec& spec);
v1::Training* TrainingOf(v1::JobSpec* spec);

// A plan's spec with its training in the place of the plan, and back. Each leaves any other work as
// it is.
v1::JobSpec WithTraining(v1::JobSpec spec);
v1::JobSpec WithPlan(v1::JobSpec spec);

// What is said of WithTraining(a plan's spec), said of the plan: "spec.training" becomes
// "spec.plan.training".
std::string FieldOfPlan(const std::string& field);
absl::Status StatusOfPlan(const absl::Status& status);

}  // namespace thaw
