#include "worker/training/training_task.h"

#include "worker/training/evaluation.h"

namespace thaw {
namespace {

using GoOn = std::function<bool(int64_t)>;
using Values = std::optional<std::map<std::string, double>>;

// One label, several, or a number for a whole sequence.
class SequenceTask : public TrainingTask {
 public:
  explicit SequenceTask(ProblemType problem) : problem_(problem) {}

  torch::Tensor LossSum(Model* model, const PackedBatch& batch, const TrainedGroups& trained,
                        const DropoutKey& dropout, SequenceState*) const override {
    const torch::Tensor logits = Logits(model, batch, trained, dropout);
    switch (problem_) {
      case ProblemType::kRegression:
        return SquaredErrorSum(logits, Outputs(batch));
      case ProblemType::kMultiLabel:
        // An example's loss is the mean over the labels, as transformers has it.
        return BinaryCrossEntropySum(logits, Outputs(batch)) / static_cast<double>(logits.size(1));
      case ProblemType::kSingleLabel:
        break;
    }
    return CrossEntropySum(logits, Labels(batch));
  }

  Values Evaluate(Model* model, const TokenizedDataset& dataset, int64_t tokens_per_batch,
                  const GoOn& go_on) const override {
    const auto logits = AllLogits(model, dataset, tokens_per_batch, go_on);
    if (!logits) return std::nullopt;
    return thaw::Evaluate(*logits, dataset);
  }

 private:
  const ProblemType problem_;
};

// The next token, or the next one of a decoder's target.
class TokenTask : public TrainingTask {
 public:
  explicit TokenTask(int32_t lanes) : lanes_(lanes) {}

  torch::Tensor LossSum(Model* model, const PackedBatch& batch, const TrainedGroups& trained,
                        const DropoutKey& dropout, SequenceState* state) const override {
    const torch::Tensor states = LossStates(model, batch, trained, dropout, state);
    const OutputLayer output = model->output_layer();
    const torch::AutoGradMode gradient(trained.NeedsGradient(model->blocks() + 1));
    return LinearCrossEntropySum(PathFor(states), states, output.weight, output.bias,
                                 NextIds(batch));
  }

  Values Evaluate(Model* model, const TokenizedDataset& dataset, int64_t tokens_per_batch,
                  const GoOn& go_on) const override {
    return EvaluateTokens(model, dataset, tokens_per_batch, lanes_, go_on);
  }

 private:
  const int32_t lanes_;
};

}  // namespace

std::unique_ptr<TrainingTask> TaskFor(const ModelConfig& config, int32_t lanes) {
  if (config.head == HeadKind::kLanguageModel) return std::make_unique<TokenTask>(lanes);
  return std::make_unique<SequenceTask>(config.problem);
}

}  // namespace thaw
