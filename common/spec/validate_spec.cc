#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/clean_text.h"
#include "common/spec/spec.h"
#include "common/spec/spec_problems.h"

namespace thaw {
namespace {

bool IsLabelKey(absl::string_view key) {
  if (key.empty() || key.size() > 63 || !absl::ascii_islower(key[0])) return false;
  for (const char c : key) {
    if (!absl::ascii_islower(c) && !absl::ascii_isdigit(c) && c != '_' && c != '-') return false;
  }
  return true;
}

void ValidateResources(const v1::Resources& resources, SpecProblems* problems) {
  if (!v1::Resources::DeviceKind_IsValid(resources.device_kind())) {
    problems->Add("spec.resources.device_kind",
                  absl::StrCat(static_cast<int>(resources.device_kind()),
                               " is not known; give CPU or CUDA, or leave it out"));
  }
  if (resources.device_count() != 0) {
    problems->ExpectWithin("spec.resources.device_count", int64_t{resources.device_count()}, 1, 64);
  }
  if (resources.device_kind() == v1::Resources::CPU && resources.device_count() > 1) {
    problems->Add("spec.resources.device_count",
                  absl::StrCat(resources.device_count(),
                               " CPU devices; a CPU worker is one device, so give 1"));
  }
  if (resources.min_memory_bytes() < 0) {
    problems->Add(
        "spec.resources.min_memory_bytes",
        absl::StrCat(resources.min_memory_bytes(), " is negative; give bytes, 0 for any"));
  }
}

void ValidateRetryLimits(const v1::RetryLimits& limits, SpecProblems* problems) {
  problems->ExpectWithin("spec.retry_limits.crashes", int64_t{limits.crashes()}, 0, 10);
  problems->ExpectWithin("spec.retry_limits.out_of_memory", int64_t{limits.out_of_memory()}, 0, 4);
  problems->ExpectWithin("spec.retry_limits.losses_in_a_row", int64_t{limits.losses_in_a_row()}, 0,
                         100);
}

void ValidateLabels(const v1::JobSpec& spec, SpecProblems* problems) {
  if (spec.labels_size() > 32) {
    problems->Add("spec.labels", absl::StrCat(spec.labels_size(), " labels; give at most 32"));
  }
  for (const auto& [key, value] : spec.labels()) {
    if (!IsLabelKey(key)) {
      problems->Add("spec.labels", absl::StrCat("key \"", CleanText(key, 80),
                                                "\" does not match [a-z][a-z0-9_-]{0,62}"));
      continue;
    }
    problems->ExpectName(absl::StrCat("spec.labels[", key, "]"), value, 63);
  }
}

}  // namespace

void ValidateWholeSpec(const v1::JobSpec& spec, SpecProblems* problems) {
  switch (spec.work_case()) {
    case v1::JobSpec::kTraining:
      if (spec.base_model().empty()) {
        problems->Add("spec.base_model", "is empty; give the id of the model to train");
      }
      ValidateTraining("spec.training", spec.training(), problems);
      break;
    case v1::JobSpec::kPlan:
      if (spec.base_model().empty()) {
        problems->Add("spec.base_model", "is empty; give the id of the model to plan for");
      }
      ValidateTraining("spec.plan.training", spec.plan().training(), problems);
      break;
    case v1::JobSpec::kPrediction:
      if (!spec.base_model().empty()) {
        problems->Add("spec.base_model",
                      absl::StrCat("\"", spec.base_model(),
                                   "\" is given with a prediction, which names its model in "
                                   "spec.prediction.model; leave it empty"));
      }
      ValidatePrediction("spec.prediction", spec.prediction(), problems);
      break;
    case v1::JobSpec::WORK_NOT_SET:
      problems->Add("spec.work", "is not set; give training, prediction or plan");
      break;
  }
  ValidateResources(spec.resources(), problems);
  problems->ExpectWithin("spec.priority", int64_t{spec.priority()}, -100, 100);
  ValidateLabels(spec, problems);
  ValidateRetryLimits(spec.retry_limits(), problems);
  if (spec.has_max_runtime()) problems->ExpectDuration("spec.max_runtime", spec.max_runtime());
  problems->ExpectName("spec.display_name", spec.display_name(), 120);
}

absl::Status ValidateSpec(const v1::JobSpec& spec) {
  SpecProblems problems;
  ValidateWholeSpec(spec, &problems);
  return problems.ToStatus();
}

}  // namespace thaw
