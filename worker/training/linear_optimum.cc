#include "worker/training/linear_optimum.h"

#include <ATen/ATen.h>
#include <torch/optim/lbfgs.h>

#include <algorithm>
#include <cmath>

namespace thaw {
namespace {

using torch::Tensor;

constexpr int64_t kOptimumRows = 4096;  // in fp64 at a time
// Iterations in a row that change nothing: fp64 has no better point.
constexpr int kIdleIterations = 2;

// The loss of all rows, and its gradient.
struct Objective {
  double loss_sum = 0;
  Tensor weight, bias;
};

class LinearObjective {
 public:
  explicit LinearObjective(const LinearProblem& problem) : problem_(problem) {
    if (!problem.class_weights.empty()) {
      class_weights_ = torch::tensor(problem.class_weights, torch::kFloat64);
    }
  }

  Objective At(const Tensor& weight, const Tensor& bias) const {
    Objective sum{0, at::zeros_like(weight), at::zeros_like(bias)};
    for (int64_t begin = 0; begin < rows(); begin += kOptimumRows) {
      const int64_t end = std::min(begin + kOptimumRows, rows());
      const Tensor x = problem_.features.slice(0, begin, end).to(torch::kFloat64);
      Tensor d;  // of the loss by the logits
      sum.loss_sum += LossOf(at::addmm(bias, x, weight.t()), begin, end, &d);
      sum.weight.addmm_(d.t(), x);
      sum.bias.add_(d.sum(0));
    }
    return sum;
  }

  int64_t rows() const { return problem_.features.size(0); }

 private:
  double LossOf(const Tensor& logits, int64_t begin, int64_t end, Tensor* d) const {
    if (problem_.problem == ProblemType::kSingleLabel) {
      const Tensor classes = problem_.classes.slice(0, begin, end).unsqueeze(1);
      const Tensor log_p = at::log_softmax(logits, 1);
      const Tensor weights =
          class_weights_.defined() ? class_weights_.index_select(0, classes.squeeze(1)) : Tensor();
      *d = log_p.exp();
      d->scatter_add_(1, classes, at::full_like(classes, -1, logits.options()));
      Tensor losses = -log_p.gather(1, classes).squeeze(1);
      if (weights.defined()) {
        d->mul_(weights.unsqueeze(1));
        losses = losses * weights;
      }
      return losses.sum().item<double>();
    }
    const Tensor outputs = problem_.outputs.slice(0, begin, end).to(torch::kFloat64);
    if (problem_.problem == ProblemType::kRegression) {
      const Tensor error = logits - outputs;
      *d = error * 2;
      return error.square().sum().item<double>();
    }
    const auto labels = static_cast<double>(logits.size(1));
    *d = (at::sigmoid(logits) - outputs) / labels;
    // log(1 + exp(x)) - x y, without overflow.
    const Tensor losses =
        at::clamp_min(logits, 0) - logits * outputs + at::log1p(at::exp(-at::abs(logits)));
    return losses.sum().item<double>() / labels;
  }

  const LinearProblem& problem_;
  Tensor class_weights_;
};

// What the loss curves by at most in each direction of the logits, about: of no weight for the
// optimum, only for how soon it is found.
double Curvature(const LinearProblem& problem, int64_t outputs) {
  switch (problem.problem) {
    case ProblemType::kRegression:
      return 2;
    case ProblemType::kMultiLabel:
      return 0.25 / static_cast<double>(outputs);
    case ProblemType::kSingleLabel:
      break;
  }
  const double share = 1 / static_cast<double>(outputs);
  return share * (1 - share);
}

// Other coordinates for the same problem, in which it is round: weight = v back and bias = b -
// weight center, where `center` is the mean of the features and back the inverse of the Cholesky
// factor of their covariance with the penalty, in the scale of the objective.
struct RoundCoordinates {
  explicit RoundCoordinates(const LinearProblem& problem, int64_t outputs) {
    const int64_t rows = problem.features.size(0), width = problem.features.size(1);
    center = at::zeros({width}, torch::kFloat64);
    Tensor curvature = at::zeros({width, width}, torch::kFloat64);
    for (const bool sums : {true, false}) {
      for (int64_t begin = 0; begin < rows; begin += kOptimumRows) {
        Tensor x = problem.features.slice(0, begin, std::min(begin + kOptimumRows, rows))
                       .to(torch::kFloat64);
        if (sums) {
          center.add_(x.sum(0));
        } else {
          x = x - center;
          curvature.addmm_(x.t(), x);
        }
      }
      if (sums) center.div_(static_cast<double>(rows));
    }
    curvature.mul_(Curvature(problem, outputs));
    Tensor diagonal = curvature.diagonal();
    // Directions without features and penalty need some curvature too.
    diagonal.add_(std::max(problem.l2, 1e-9 * diagonal.mean().item<double>() + 1e-30));
    factor = at::linalg_cholesky(curvature.div_(static_cast<double>(rows)));
    back = at::linalg_solve_triangular(factor, at::eye(width, factor.options()), /*upper=*/false);
  }

  LinearWeights ToRound(const LinearWeights& from) const {
    return {at::matmul(from.weight, factor), from.bias + at::mv(from.weight, center)};
  }
  LinearWeights FromRound(const LinearWeights& from) const {
    const Tensor weight = at::matmul(from.weight, back);
    return {weight, from.bias - at::mv(weight, center)};
  }
  // Of the same function.
  LinearWeights GradientToRound(const LinearWeights& by) const {
    return {at::matmul(by.weight - at::outer(by.bias, center), back.t()), by.bias};
  }

  Tensor center, factor, back;  // [width], [width, width] twice
};

}  // namespace

LinearOptimum FindLinearOptimum(const LinearProblem& problem, const LinearWeights& start,
                                const std::function<bool(const LinearIteration&)>& after) {
  const torch::NoGradGuard no_grad;
  const LinearObjective objective(problem);
  const auto rows = static_cast<double>(objective.rows());
  const RoundCoordinates coordinates(problem, start.bias.size(0));
  LinearOptimum found;
  LinearWeights& at = found.weights;
  at.weight = start.weight.detach().to(torch::kFloat64).clone();
  at.bias = start.bias.detach().to(torch::kFloat64).clone();
  const LinearWeights round = coordinates.ToRound(at);
  // An iteration a call: what it has found out stays in the optimizer. The tolerances are ours.
  torch::optim::LBFGS optimizer({round.weight, round.bias}, torch::optim::LBFGSOptions(1)
                                                                .max_iter(1)
                                                                .max_eval(25)
                                                                .tolerance_grad(0)
                                                                .tolerance_change(0)
                                                                .history_size(20)
                                                                .line_search_fn("strong_wolfe"));
  // Puts the gradient of (sum) / rows where the optimizer looks for it.
  Objective newest;
  LinearWeights gradient;
  const auto evaluate = [&] {
    at = coordinates.FromRound(round);
    newest = objective.At(at.weight, at.bias);
    gradient = {newest.weight.add(at.weight, problem.l2).div_(rows), newest.bias.div(rows)};
    const LinearWeights by = coordinates.GradientToRound(gradient);
    round.weight.mutable_grad() = by.weight;
    round.bias.mutable_grad() = by.bias;
    return (newest.loss_sum + problem.l2 / 2 * at.weight.square().sum().item<double>()) / rows;
  };
  int idle = 0;
  for (int number = 1; number <= problem.max_iterations; ++number) {
    const LinearWeights before = at;
    optimizer.step([&] { return torch::scalar_tensor(evaluate(), torch::kFloat64); });
    // The line search need not have looked last at the point that it chose.
    evaluate();
    LinearIteration iteration;
    iteration.number = number;
    iteration.loss_sum = newest.loss_sum;
    iteration.greatest_gradient = std::max(gradient.weight.abs().max().item<double>(),
                                           gradient.bias.abs().max().item<double>());
    iteration.gradient_norm = std::sqrt(gradient.weight.square().sum().item<double>() +
                                        gradient.bias.square().sum().item<double>());
    iteration.update_norm = std::sqrt((at.weight - before.weight).square().sum().item<double>() +
                                      (at.bias - before.bias).square().sum().item<double>());
    idle = iteration.update_norm > 0 ? 0 : idle + 1;
    const bool stalled = idle >= kIdleIterations;
    // As near as fp64 gets, unless the line search has only failed.
    found.converged = iteration.greatest_gradient <= problem.tolerance * (stalled ? 100 : 1);
    if (!after(iteration) || found.converged || stalled) break;
  }
  return found;
}

}  // namespace thaw
