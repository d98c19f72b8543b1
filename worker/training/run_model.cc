#include "worker/training/run_model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "worker/tuning/peft_files.h"

namespace thaw {
namespace {

// What the adapter was trained with, where it says so.
absl::StatusOr<std::optional<HeadSpec>> HeadOfAdapter(const std::string& directory) {
  const std::string path = directory + "/config.json";
  if (!Exists(path)) return std::nullopt;
  THAW_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, 1 << 20));
  absl::StatusOr<ModelConfig> config = ParseModelConfig(text);
  if (!config.ok()) return Annotate(config.status(), directory);
  if (config->head == HeadKind::kNone) return std::nullopt;
  HeadSpec head;
  head.kind = config->head;
  head.problem = config->problem;
  if (head.kind == HeadKind::kClassifier) head.labels = config->labels;
  return head;
}

}  // namespace

const std::string& BaseDirectory(const internal::Run& run) {
  return IsAdapter(run.model_dir()) ? run.base_dir() : run.model_dir();
}

absl::Status TokenizerOfAdapter() {
  return InvalidField("tokenizer",
                      "an adapter knows its base's vocabulary alone: leave it out, or merge the "
                      "adapter first");
}

absl::StatusOr<RunModel> LoadRunModel(const internal::Run& run,
                                      const std::optional<HeadSpec>& head) {
  RunModel loaded;
  if (!IsAdapter(run.model_dir())) {
    THAW_ASSIGN_OR_RETURN(loaded.model, LoadModel(run.model_dir(), head));
    return loaded;
  }
  if (run.base_dir().empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(run.model_dir(), " is an adapter, and its base model is not there"));
  }
  THAW_ASSIGN_OR_RETURN(const std::optional<HeadSpec> own, HeadOfAdapter(run.model_dir()));
  if (head && own && (head->kind != own->kind || head->labels != own->labels)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the adapter was trained with another head, or with the labels ",
                     absl::StrJoin(own->labels, ", "), " instead of ",
                     absl::StrJoin(head->labels, ", "), ": begin with its base model"));
  }
  THAW_ASSIGN_OR_RETURN(loaded.model, LoadModel(run.base_dir(), head ? head : own));
  THAW_ASSIGN_OR_RETURN(loaded.part, LoadAdapter(run.model_dir(), loaded.model.get()));
  return loaded;
}

}  // namespace thaw
