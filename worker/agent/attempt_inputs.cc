#include "worker/agent/attempt_inputs.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "common/base/status.h"

namespace thaw {

std::string WarmKeyOf(const v1::Assignment& assignment, int threads) {
  const v1::Prediction& prediction = assignment.spec().prediction();
  if (!assignment.spec().has_prediction() || assignment.model().digest().empty()) return "";
  // Maps have no order in a message's bytes: two of the same training may differ, which costs a
  // loading and nothing else. The owner's name comes last, for it may hold anything.
  return absl::StrCat(assignment.model().digest(), "/", assignment.base().digest(), "/",
                      assignment.checkpoint().digest(), "/", assignment.tokenizer().digest(), "/",
                      prediction.weights() == v1::Prediction::LAST, "/", prediction.precision(),
                      "/", assignment.spec().resources().device_kind(), "/",
                      Sha256Hex(assignment.training_behind().SerializeAsString()), "/", threads,
                      "/", assignment.owner());
}

absl::StatusOr<AttemptInputs> BringInputs(const v1::Assignment& assignment, ArtifactCache& cache,
                                          ServerLink& link, const std::function<bool()>& unwanted) {
  AttemptInputs inputs;
  internal::Run& run = inputs.run;
  *run.mutable_assignment() = assignment;
  const auto fetch = [&](const v1::Artifact& artifact, const std::string& directory) {
    return link.Download(assignment.attempt_id(), artifact, directory, unwanted);
  };
  const auto bring = [&](bool wanted, const v1::Artifact& artifact,
                         std::string* directory) -> absl::Status {
    if (!wanted) return absl::OkStatus();
    THAW_ASSIGN_OR_RETURN(ArtifactCache::Pin pin, cache.Get(artifact, fetch));
    *directory = pin.directory();
    inputs.pins.push_back(std::move(pin));
    return absl::OkStatus();
  };
  THAW_RETURN_IF_ERROR(bring(assignment.has_model(), assignment.model(), run.mutable_model_dir()));
  THAW_RETURN_IF_ERROR(bring(assignment.has_base(), assignment.base(), run.mutable_base_dir()));
  THAW_RETURN_IF_ERROR(
      bring(assignment.has_dataset(), assignment.dataset(), run.mutable_dataset_dir()));
  THAW_RETURN_IF_ERROR(bring(assignment.has_validation_dataset(), assignment.validation_dataset(),
                             run.mutable_validation_dataset_dir()));
  THAW_RETURN_IF_ERROR(
      bring(assignment.has_checkpoint(), assignment.checkpoint(), run.mutable_checkpoint_dir()));
  THAW_RETURN_IF_ERROR(
      bring(assignment.has_tokenizer(), assignment.tokenizer(), run.mutable_tokenizer_dir()));
  for (const v1::Artifact& model : assignment.average_with()) {
    THAW_RETURN_IF_ERROR(bring(true, model, run.add_average_with_dirs()));
  }
  return inputs;
}

}  // namespace thaw
