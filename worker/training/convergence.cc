// A phase that ends at the optimum of a linear pooled head. It is one turn of the loop: given up in
// the middle, it begins again, so that no checkpoint has to know of it.
#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "worker/training/failure.h"
#include "worker/training/features.h"
#include "worker/training/linear_optimum.h"
#include "worker/training/training_loop.h"

namespace thaw {
namespace {

// Of the features of all training rows, bytes.
constexpr int64_t kMostFeatureBytes = int64_t{8} << 30;

}  // namespace

absl::Status TrainingLoop::CheckPooledHead(int phase, const PhaseParameters& trains) const {
  const bool converges = training_.phases(phase).has_convergence();
  const bool exports = training_.pooled_head().export_features();
  if (!converges && !exports) return absl::OkStatus();
  const auto& pooled = model_->config().pooled;
  const std::string field = absl::StrCat("phases[", phase, "]");
  if (converges && (!pooled || !pooled->linear() || trains.names.size() != 2)) {
    return InvalidField(field + ".convergence",
                        "needs a linear pooled head, and all of it trained: give pooled_head "
                        "without hidden_size and the selector head_only, or another end");
  }
  if (trains.group_rates.begin()->first <= model_->blocks()) {
    const std::string what = absl::StrCat("trains \"", trains.names.front(), "\" below the head");
    return converges ? InvalidField(field + ".selector",
                                    absl::StrCat(what, ", and ends by convergence: give head_only"))
                     : InvalidField("pooled_head.export_features",
                                    absl::StrCat("is true, and ", field, " ", what,
                                                 ", so that features change: leave it out"));
  }
  const int64_t bytes = inputs_.training.rows() * model_->hidden_size() * 4;
  if (bytes > kMostFeatureBytes) {
    return InvalidField(
        converges ? field + ".convergence" : "pooled_head.export_features",
        absl::StrCat("features of all rows take ", bytes, " bytes, more than ", kMostFeatureBytes,
                     converges ? ": give the phase epochs, or fewer rows" : ": give fewer rows"));
  }
  return absl::OkStatus();
}

absl::Status TrainingLoop::Converge() {
  const auto go_on = [this](int64_t) {
    reporter_.Beat();
    return !context_.control->ShouldEnd();
  };
  const double begin = reporter_.SecondsSinceStart();
  LinearProblem problem;
  {
    std::optional<torch::Tensor> features =
        AllFeatures(model_.get(), inputs_.training, TokensPerMicroStep(), go_on);
    if (!features) return absl::OkStatus();
    problem.features = *std::move(features);
  }
  if (!problem.features.isfinite().all().item<bool>()) {
    return WithReason(
        absl::InvalidArgumentError("the model's features are not finite: its weights are damaged"),
        "NON_FINITE_LOSS");
  }
  const double computed = reporter_.SecondsSinceStart();
  reporter_.Log(absl::StrFormat("features of %d rows computed, in %.1f s", problem.features.size(0),
                                computed - begin));
  const v1::Convergence& options = program_->phase().convergence();
  problem.problem = inputs_.problem;
  torch::Tensor targets = TargetsOf(inputs_.training);
  (inputs_.problem == ProblemType::kSingleLabel ? problem.classes : problem.outputs) =
      std::move(targets);
  problem.class_weights = inputs_.class_weights;
  if (options.has_l2()) problem.l2 = options.l2();
  if (options.has_tolerance()) problem.tolerance = options.tolerance();
  if (options.max_iterations() > 0) problem.max_iterations = options.max_iterations();

  const torch::Tensor& weight = model_->parameters().Find(parameters_.names[0])->tensor;
  const torch::Tensor& bias = model_->parameters().Find(parameters_.names[1])->tensor;
  const int64_t units = inputs_.training.rows();
  const std::string& group = model_->groups().back().name;
  std::vector<double> losses;
  bool given_up = false, finite = true;
  double mark = computed, greatest_gradient = 0;
  const LinearOptimum found = FindLinearOptimum(
      problem, {weight.detach().cpu(), bias.detach().cpu()}, [&](const LinearIteration& iteration) {
        finite = std::isfinite(iteration.loss_sum) && std::isfinite(iteration.gradient_norm);
        given_up = !go_on(0);
        if (!finite || given_up) return false;
        losses.push_back(iteration.loss_sum);
        greatest_gradient = iteration.greatest_gradient;
        const double now = reporter_.SecondsSinceStart();
        reporter_.StepDone(
            {.step = step() + iteration.number,
             .phase = program_->state().phase() + 1,
             .loss_sum = iteration.loss_sum,
             .loss_units = units,
             .learning_rate = 0,
             .gradient_norm = iteration.gradient_norm,
             .update_norm = iteration.update_norm,
             .group_norms = {{group, iteration.gradient_norm, iteration.update_norm}},
             .tokens = tokens_ + inputs_.training.tokens(),
             .step_tokens = iteration.number == 1 ? inputs_.training.tokens() : 0,
             .seconds = now - std::exchange(mark, now)});
        return true;  // one turn: where the clock cut it could not be done again
      });
  if (!finite) {
    return WithReason(absl::InvalidArgumentError(
                          absl::StrCat("the loss of optimizer step ", step() + losses.size() + 1,
                                       " is not finite: give convergence.l2 above 0")),
                      "NON_FINITE_LOSS");
  }
  if (given_up) {
    // What the points have told of is done again.
    reporter_.FlushPoint();
    return absl::OkStatus();
  }
  {
    const torch::NoGradGuard no_grad;
    weight.copy_(found.weights.weight);
    bias.copy_(found.weights.bias);
  }
  CountTime();
  for (const double loss : losses) {
    program_->StepDone();
    history_.StepDone(step(), loss, units);
  }
  tokens_ += inputs_.training.tokens();
  loss_ = losses.back() / static_cast<double>(units);
  best_is_current_ = false;
  if (!found.converged) {
    reporter_.Warn("NOT_CONVERGED",
                   absl::StrCat("phase \"", program_->phase().name(), "\" ends after ",
                                losses.size(), " iterations with a gradient of ", greatest_gradient,
                                ", above the tolerance of ", problem.tolerance));
  } else {
    reporter_.Log(absl::StrFormat(
        "converged after %d iterations, greatest gradient %.3g, in %.1f s", losses.size(),
        greatest_gradient, reporter_.SecondsSinceStart() - computed));
  }
  return absl::OkStatus();
}

absl::Status TrainingLoop::ExportFeatures(const std::string& directory) {
  if (!training_.pooled_head().export_features()) return absl::OkStatus();
  const auto beat = [this](int64_t) { return reporter_.Beat(), true; };
  FeatureRows training{&inputs_.training, {}}, validation{&inputs_.validation, {}};
  training.features = *AllFeatures(model_.get(), inputs_.training, TokensPerMicroStep(), beat);
  if (inputs_.validation.rows() > 0) {
    validation.features =
        *AllFeatures(model_.get(), inputs_.validation, TokensPerMicroStep(), beat);
  }
  return WriteFeatures(training, validation, directory);
}

}  // namespace thaw
