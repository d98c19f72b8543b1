// Against what scikit-learn has found on the same rows (tests/data/linear_optimum).
#include "worker/training/linear_optimum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "common/base/json.h"

namespace thaw {
namespace {

torch::Tensor FromJson(const nlohmann::json& rows) {
  std::vector<double> values;
  for (const auto& row : rows) {
    for (const double value : row) values.push_back(value);
  }
  return torch::tensor(values, torch::kFloat64).view({static_cast<int64_t>(rows.size()), -1});
}

class LinearOptimumTest : public ::testing::Test {
 protected:
  LinearOptimumTest() {
    auto json =
        ReadJsonFile(std::string(getenv("THAW_TEST_DATA")) + "/linear_optimum/expected.json");
    EXPECT_TRUE(json.ok()) << json.status();
    recorded_ = *json;
  }

  LinearProblem ProblemOf(const nlohmann::json& recorded) const {
    LinearProblem problem;
    problem.features = FromJson(recorded_["features"]).to(torch::kFloat32);
    problem.l2 = recorded["l2"];
    problem.tolerance = 1e-8;
    if (recorded["problem"] == "single_label") {
      problem.classes =
          torch::tensor(recorded["targets"].get<std::vector<int64_t>>(), torch::kInt64);
    } else {
      problem.problem =
          recorded["problem"] == "regression" ? ProblemType::kRegression : ProblemType::kMultiLabel;
      problem.outputs = FromJson(recorded["targets"]).to(torch::kFloat32);
    }
    if (recorded.contains("class_weights")) {
      problem.class_weights = recorded["class_weights"].get<std::vector<float>>();
    }
    return problem;
  }

  nlohmann::json recorded_;
};

TEST_F(LinearOptimumTest, IsThatOfScikitLearn) {
  for (const auto& recorded : recorded_["cases"]) {
    SCOPED_TRACE(recorded["name"].get<std::string>());
    const torch::Tensor weight = FromJson(recorded["weight"]);
    const torch::Tensor bias =
        torch::tensor(recorded["bias"].get<std::vector<double>>(), torch::kFloat64);
    at::manual_seed(5);
    const LinearWeights start{at::randn_like(weight), at::randn_like(bias)};
    double loss = 0, gradient = 0;
    int iterations = 0;
    const LinearOptimum found =
        FindLinearOptimum(ProblemOf(recorded), start, [&](const LinearIteration& iteration) {
          loss = iteration.loss_sum;
          gradient = iteration.greatest_gradient;
          EXPECT_EQ(iteration.number, ++iterations);
          return true;
        });
    // A number added to all biases changes nothing where labels exclude each other.
    torch::Tensor biases = found.weights.bias;
    if (recorded["problem"] == "single_label") biases = biases - biases.mean();
    const double greatest = weight.abs().max().item<double>();
    const double off = std::max((found.weights.weight - weight).abs().max().item<double>(),
                                (biases - bias).abs().max().item<double>()) /
                       greatest;
    const double loss_off = std::abs(loss / recorded["loss"].get<double>() - 1);
    std::printf("[ FIGURE   ] %s: weights off by %.1e, loss by %.1e (relative), %d iterations\n",
                recorded["name"].get<std::string>().c_str(), off, loss_off, iterations);
    EXPECT_TRUE(found.converged);
    EXPECT_LE(gradient, 1e-8);
    EXPECT_LT(iterations, 250);
    EXPECT_LT(off, 5e-5);
    EXPECT_LT(loss_off, 1e-8);
  }
}

TEST_F(LinearOptimumTest, EndsWhereItIsTold) {
  LinearProblem problem = ProblemOf(recorded_["cases"][0]);
  const LinearWeights start{at::zeros({3, 5}), at::zeros({3})};
  for (const int most : {1, 3}) {
    problem.max_iterations = most;
    int seen = 0;
    EXPECT_FALSE(FindLinearOptimum(problem, start, [&](const LinearIteration&) {
                   return ++seen, true;
                 }).converged);
    EXPECT_EQ(seen, most);
  }
  int seen = 0;
  problem.max_iterations = 500;
  FindLinearOptimum(problem, start, [&](const LinearIteration&) { return ++seen < 2; });
  EXPECT_EQ(seen, 2);
}

}  // namespace
}  // namespace thaw
