#include "worker/training/prediction_model.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "worker/model/decoder_start.h"
#include "worker/training/checkpoint.h"
#include "worker/training/inputs.h"
#include "worker/training/model_directory.h"
#include "worker/training/pooling.h"
#include "worker/training/run_model.h"
#include "worker/training/run_precision.h"
#include "worker/tuning/added_part.h"
#include "worker/tuning/peft_files.h"

namespace thaw {
namespace {

// The head that a training trains on a base model of `config`; as training_inputs.cc chooses it.
HeadSpec HeadOf(const v1::TrainingBehind& behind, const ModelConfig& config) {
  const v1::Training& training = behind.spec().training();
  HeadSpec head;
  head.seed = training.seed();
  head.labels = {behind.labels().begin(), behind.labels().end()};
  switch (training.task_case()) {
    case v1::Training::kTextClassification:
      if (training.text_classification().multi_label()) head.problem = ProblemType::kMultiLabel;
      break;
    case v1::Training::kRegression:
      head.problem = ProblemType::kRegression;
      head.labels = {config.problem == ProblemType::kRegression && config.labels.size() == 1
                         ? config.labels.front()
                         : "LABEL_0"};
      break;
    default:
      head.kind = HeadKind::kLanguageModel;
  }
  head.pooled = PooledHeadOf(training);
  return head;
}

absl::Status UseCheckpoint(const internal::Run& run, Model* model) {
  THAW_ASSIGN_OR_RETURN(CheckpointContents contents, ReadCheckpoint(run.checkpoint_dir()));
  const auto put = [model](TensorsByName& tensors) -> absl::Status {
    for (auto& [name, tensor] : tensors) {
      if (model->parameters().Find(name) == nullptr) {
        return absl::InvalidArgumentError(
            absl::StrCat("the checkpoint holds ", name, ", which the model does not have"));
      }
      THAW_RETURN_IF_ERROR(model->parameters().SetTensor(name, std::move(tensor)));
    }
    return absl::OkStatus();
  };
  const bool wants_best = run.assignment().spec().prediction().weights() != v1::Prediction::LAST;
  // BEST_WEIGHTS_UNSPECIFIED and CURRENT_WEIGHTS: the last ones are the best that there are.
  // Not over the last ones: what was trained only since the best were taken is the base's in them.
  const bool takes_best = wants_best && contents.state.best_weights() == internal::OWN_FILE;
  return put(takes_best ? contents.best : contents.weights);
}

// `directory` says which tokens are special: with another tokenizer its own files may not.
absl::Status ReadText(const std::string& directory, PredictionModel* loaded) {
  const ModelConfig& config = loaded->model->config();
  THAW_ASSIGN_OR_RETURN(loaded->tokenizer, LoadTokenizer(loaded->tokenizer_dir, config));
  loaded->special = ReadSpecialTokens(directory, *loaded->tokenizer);
  loaded->decoder_start = DecoderStart(directory, config);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PredictionModel> LoadPredictionModel(const internal::Run& run) {
  const v1::Assignment& assignment = run.assignment();
  std::optional<HeadSpec> head;
  // What is mapped of it stays when the attempt's files go.
  THAW_ASSIGN_OR_RETURN(const std::string directory, ModelDirectory(run));
  if (assignment.has_training_behind()) {
    THAW_ASSIGN_OR_RETURN(const std::string text, ReadFile(directory + "/config.json"));
    THAW_ASSIGN_OR_RETURN(const ModelConfig config, ParseModelConfig(text));
    head = HeadOf(assignment.training_behind(), config);
  }
  PredictionModel loaded;
  THAW_ASSIGN_OR_RETURN(RunModel of_run, LoadRunModel(run, directory, head));
  loaded.model = std::move(of_run.model);
  loaded.tokenizer_dir = TokenizerDirectory(run);
  const v1::Training& behind = assignment.training_behind().spec().training();
  if (assignment.has_training_behind() && behind.has_added_part()) {
    THAW_RETURN_IF_ERROR(AddTrainingsPart(behind, loaded.tokenizer_dir, loaded.model.get()));
  }
  if (!run.checkpoint_dir().empty()) THAW_RETURN_IF_ERROR(UseCheckpoint(run, loaded.model.get()));
  THAW_RETURN_IF_ERROR(ReadText(directory, &loaded));
  return loaded;
}

absl::StatusOr<PredictionModel> LoadModelAsIs(const internal::Run& run,
                                              const std::string& directory) {
  PredictionModel loaded;
  THAW_ASSIGN_OR_RETURN(loaded.model, LoadModel(directory, std::nullopt, ComputesInHalf(run)));
  loaded.tokenizer_dir = directory;
  THAW_RETURN_IF_ERROR(ReadText(directory, &loaded));
  return loaded;
}

}  // namespace thaw
