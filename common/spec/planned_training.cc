#include "common/spec/planned_training.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace thaw {

const v1::Training* TrainingOf(const v1::JobSpec& spec) {
  if (spec.has_training()) return &spec.training();
  return spec.has_plan() ? &spec.plan().training() : nullptr;
}

v1::Training* TrainingOf(v1::JobSpec* spec) {
  if (spec->has_training()) return spec->mutable_training();
  return spec->has_plan() ? spec->mutable_plan()->mutable_training() : nullptr;
}

v1::JobSpec WithTraining(v1::JobSpec spec) {
  if (!spec.has_plan()) return spec;
  v1::Training training = std::move(*spec.mutable_plan()->mutable_training());
  *spec.mutable_training() = std::move(training);
  return spec;
}

v1::JobSpec WithPlan(v1::JobSpec spec) {
  if (!spec.has_training()) return spec;
  v1::Training training = std::move(*spec.mutable_training());
  *spec.mutable_plan()->mutable_training() = std::move(training);
  return spec;
}

std::string FieldOfPlan(const std::string& field) {
  constexpr absl::string_view kTraining = "spec.training";
  return absl::StartsWith(field, kTraining)
             ? absl::StrCat("spec.plan.training", field.substr(kTraining.size()))
             : field;
}

absl::Status StatusOfPlan(const absl::Status& status) {
  std::vector<FieldViolation> violations = ViolationsOf(status);
  if (violations.empty()) return status;
  for (FieldViolation& violation : violations) violation.field = FieldOfPlan(violation.field);
  return InvalidFields(violations);
}

}  // namespace thaw
