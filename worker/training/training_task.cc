#include "worker/training/training_task.h"

#include <ATen/Functions.h>
#include <ATen/core/Reduction.h>

#include "worker/training/evaluation.h"

namespace thaw {
namespace {

using GoOn = std::function<bool(int64_t)>;
using Figures = std::optional<EvaluationFigures>;

// One label, several, or a number for a whole sequence.
class SequenceTask : public TrainingTask {
 public:
  SequenceTask(ProblemType problem, const std::vector<float>& class_weights) : problem_(problem) {
    if (!class_weights.empty()) class_weights_ = torch::tensor(class_weights, torch::kFloat32);
  }

  torch::Tensor LossSum(Model* model, const PackedBatch& batch, const TrainedGroups& trained,
                        const DropoutKey& dropout, SequenceState*,
                        ActivationCache* frozen) const override {
    const torch::Tensor logits = Logits(model, batch, trained, dropout, frozen);
    switch (problem_) {
      case ProblemType::kRegression:
        return SquaredErrorSum(logits, Outputs(batch));
      case ProblemType::kMultiLabel:
        // An example's loss is the mean over the labels, as transformers has it.
        return BinaryCrossEntropySum(logits, Outputs(batch)) / static_cast<double>(logits.size(1));
      case ProblemType::kSingleLabel:
        break;
    }
    if (!class_weights_.defined()) return CrossEntropySum(logits, Labels(batch));
    return at::cross_entropy_loss(logits.to(torch::kFloat32), Labels(batch).to(logits.device()),
                                  class_weights_.to(logits.device()), at::Reduction::Sum);
  }

  Figures Evaluate(Model* model, const TokenizedDataset& dataset, int64_t tokens_per_batch,
                   ActivationCache* frozen, const GoOn& go_on) const override {
    const auto logits = AllLogits(model, dataset, tokens_per_batch, go_on, frozen);
    if (!logits) return std::nullopt;
    return thaw::Evaluate(*logits, dataset);
  }

 private:
  const ProblemType problem_;
  torch::Tensor class_weights_;  // fp32 [classes], or undefined
};

// The next token, or the next one of a decoder's target.
class TokenTask : public TrainingTask {
 public:
  explicit TokenTask(int32_t lanes) : lanes_(lanes) {}

  torch::Tensor LossSum(Model* model, const PackedBatch& batch, const TrainedGroups& trained,
                        const DropoutKey& dropout, SequenceState* state,
                        ActivationCache* frozen) const override {
    const torch::Tensor states = LossStates(model, batch, trained, dropout, state, frozen);
    const OutputLayer output = model->output_layer();
    const torch::AutoGradMode gradient(trained.NeedsGradient(model->blocks() + 1));
    return LinearCrossEntropySum(PathFor(states), states, output.weight, output.bias,
                                 NextIds(batch), output.half);
  }

  Figures Evaluate(Model* model, const TokenizedDataset& dataset, int64_t tokens_per_batch,
                   ActivationCache* frozen, const GoOn& go_on) const override {
    auto values = EvaluateTokens(model, dataset, tokens_per_batch, lanes_, go_on, frozen);
    if (!values) return std::nullopt;
    return EvaluationFigures{*std::move(values), {}};
  }

 private:
  const int32_t lanes_;
};

}  // namespace

std::unique_ptr<TrainingTask> TaskFor(const ModelConfig& config, int32_t lanes,
                                      const std::vector<float>& class_weights) {
  if (config.head == HeadKind::kLanguageModel) return std::make_unique<TokenTask>(lanes);
  return std::make_unique<SequenceTask>(config.problem, class_weights);
}

}  // namespace thaw
