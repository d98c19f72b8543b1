#include "worker/training/run_model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "worker/text/tokenizer.h"
#include "worker/training/inputs.h"
#include "worker/training/model_directory.h"
#include "worker/training/run_precision.h"
#include "worker/tuning/added_part.h"
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
  head.pooled = config->pooled;
  return head;
}

}  // namespace

absl::StatusOr<RunModel> LoadRunModel(const internal::Run& run, const std::string& directory,
                                      const std::optional<HeadSpec>& head) {
  const bool half = ComputesInHalf(run);
  RunModel loaded;
  if (!IsAdapter(run.model_dir())) {
    THAW_ASSIGN_OR_RETURN(loaded.model, LoadModel(directory, head, half));
    return loaded;
  }
  THAW_ASSIGN_OR_RETURN(const std::optional<HeadSpec> own, HeadOfAdapter(run.model_dir()));
  if (head && own && (head->kind != own->kind || head->labels != own->labels)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the adapter was trained with another head, or with the labels ",
                     absl::StrJoin(own->labels, ", "), " instead of ",
                     absl::StrJoin(head->labels, ", "), ": begin with its base model"));
  }
  std::optional<HeadSpec> chosen = head ? head : own;
  if (head && own) {
    if (!head->pooled) chosen->pooled = own->pooled;
    if (chosen->pooled && chosen->pooled->blocks < 0 && own->pooled) {
      chosen->pooled->blocks = own->pooled->blocks;
    }
    if (chosen->pooled.has_value() != own->pooled.has_value() ||
        (own->pooled && !SameForm(*chosen->pooled, *own->pooled))) {
      return InvalidField("pooled_head",
                          "differs from the adapter's own head: leave it out to go on with that "
                          "one, or begin with its base model");
    }
  }
  THAW_ASSIGN_OR_RETURN(loaded.model, LoadModel(directory, chosen, half));
  THAW_ASSIGN_OR_RETURN(loaded.part, LoadAdapter(run.model_dir(), loaded.model.get()));
  return loaded;
}

absl::Status AddTrainingsPart(const v1::Training& training, const std::string& tokenizer_dir,
                              Model* model) {
  const v1::AddedPart& part = training.added_part();
  const std::string& text = part.prompt_tuning().initial_text();
  if (text.empty()) return AddPart(part, training.seed(), model);
  THAW_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(tokenizer_dir, model->config()));
  EncodeOptions options;
  options.add_special_tokens = false;
  THAW_ASSIGN_OR_RETURN(const Encoding encoding, tokenizer->Encode({.text = text}, options));
  if (encoding.ids.empty()) {
    return InvalidField("added_part.prompt_tuning.initial_text",
                        "has no token; give a text, or none for tokens that are drawn");
  }
  return AddPart(part, training.seed(), model, encoding.ids);
}

absl::StatusOr<std::unique_ptr<Model>> LoadResult(const internal::Run& run,
                                                  const std::string& result_dir) {
  internal::Run of_result;
  of_result.set_model_dir(result_dir);
  of_result.set_base_dir(BaseWeightsDirectory(run));
  of_result.set_work_dir(run.work_dir() + "/read_back");
  *of_result.mutable_assignment()->mutable_spec() = run.assignment().spec();
  THAW_RETURN_IF_ERROR(MakeDirectories(of_result.work_dir()));
  THAW_ASSIGN_OR_RETURN(const std::string directory, ModelDirectory(of_result));
  THAW_ASSIGN_OR_RETURN(RunModel loaded, LoadRunModel(of_result, directory, std::nullopt));
  return std::move(loaded.model);
}

}  // namespace thaw
