// What tests of operations by both paths share.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "torch/csrc/autograd/autograd.h"
#include "worker/model/ops.h"

namespace thaw::op_paths {

using torch::Tensor;
using Tensors = std::vector<Tensor>;
using Operation = std::function<Tensors(Path, const Tensors&)>;

inline const DropoutSite kDrop = MakeDropoutSite(5, 1, 0, 3, 0.25);

inline constexpr ActivationKind kKinds[] = {ActivationKind::kGeluErf,   ActivationKind::kGeluTanh,
                                            ActivationKind::kRelu,      ActivationKind::kSilu,
                                            ActivationKind::kQuickGelu, ActivationKind::kTanh};

// Within `tolerance` of the largest number; by default what fp32 differs by when sums are taken in
// another order.
inline void ExpectClose(const Tensor& found, const Tensor& expected, const std::string& what,
                        double tolerance = 1e-5) {
  ASSERT_EQ(found.defined(), expected.defined()) << what;
  if (!expected.defined()) return;
  ASSERT_EQ(found.sizes(), expected.sizes()) << what;
  ASSERT_EQ(found.scalar_type(), expected.scalar_type()) << what;
  const Tensor wide = expected.to(torch::kFloat);
  const double size = wide.abs().max().item<double>();
  const double difference = (found.to(torch::kFloat) - wide).abs().max().item<double>();
  EXPECT_LT(difference, tolerance * (size + 1)) << what;
}

// Runs `operation` by one path, with random gradients at the results, and returns the results and
// the gradients at the inputs that ask for one.
inline Tensors ResultsAndGradients(Path path, const Tensors& inputs, const Operation& operation) {
  Tensors own, leaves;
  for (const Tensor& input : inputs) {
    own.push_back(input.defined() ? input.detach().clone() : input);
    if (!input.defined() || !input.requires_grad()) continue;
    own.back().set_requires_grad(true);
    leaves.push_back(own.back());
  }
  Tensors all = operation(path, own), above;
  torch::manual_seed(9);
  for (const Tensor& result : all) above.push_back(at::randn_like(result));
  const Tensors gradients = torch::autograd::grad(all, leaves, above, std::nullopt, false, true);
  all.insert(all.end(), gradients.begin(), gradients.end());
  return all;
}

inline void ExpectPathsAgree(const Tensors& inputs, const Operation& operation,
                             double tolerance = 1e-5) {
  const Tensors found = ResultsAndGradients(Path::kKernels, inputs, operation);
  const Tensors expected = ResultsAndGradients(Path::kReference, inputs, operation);
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    ExpectClose(found[i], expected[i], "tensor " + std::to_string(i), tolerance);
  }
}

inline Tensor Random(at::IntArrayRef shape, uint64_t seed) {
  torch::manual_seed(seed);
  return at::randn(shape).set_requires_grad(true);
}

// What comes straight from an operation that does not keep its result.
inline Tensor Fresh(const Tensor& x) { return x * 1; }

}  // namespace thaw::op_paths
