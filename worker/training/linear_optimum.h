// The optimum of a linear head over features, by L-BFGS with strong Wolfe line search (Nocedal and
// Wright, Numerical Optimization, algorithms 7.5 and 3.5) in fp64.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "torch/types.h"
#include "worker/model/config.h"

namespace thaw {

// Minimises sum over rows of loss(row) + l2 / 2 · |weight|². The loss of a row is the training's
// own: cross-entropy times the weight of its class; binary cross-entropy, averaged over labels; the
// squared error.
struct LinearProblem {
  torch::Tensor features;  // fp32 [rows, width]
  ProblemType problem = ProblemType::kSingleLabel;
  torch::Tensor classes;             // int64 [rows], of one label a row
  torch::Tensor outputs;             // fp32 [rows, n], of several labels or a number
  std::vector<float> class_weights;  // by class; empty: 1
  double l2 = 1;
  int max_iterations = 500;
  // The end: no component of the gradient of (sum) / rows exceeds it.
  double tolerance = 1e-6;
};

// fp64.
struct LinearWeights {
  torch::Tensor weight;  // [n, width]
  torch::Tensor bias;    // [n]
};

// After an iteration.
struct LinearIteration {
  int number = 0;                // from 1
  double loss_sum = 0;           // without the penalty
  double greatest_gradient = 0;  // what the tolerance is compared with
  double gradient_norm = 0;      // L2, of (sum) / rows
  double update_norm = 0;        // L2, of what the iteration has changed
};

struct LinearOptimum {
  LinearWeights weights;
  // Within the tolerance, or as near to it as fp64 gets; otherwise out of iterations or told to
  // end.
  bool converged = false;
};

// Begins from `start`, in coordinates in which the features are centred and uncorrelated: the same
// optimum in far fewer iterations. Told of every iteration, `after` says whether to go on; nothing
// depends on how often it is asked. The same inputs give the same bits, whatever the number of
// threads, as far as LibTorch's matrix products do. Memory beside the features: chunks of 4,096
// rows, and three matrices [width, width], in fp64.
LinearOptimum FindLinearOptimum(const LinearProblem& problem, const LinearWeights& start,
                                const std::function<bool(const LinearIteration&)>& after);

}  // namespace thaw
