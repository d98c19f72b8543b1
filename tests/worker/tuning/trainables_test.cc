#include "worker/tuning/trainables.h"

#include <gtest/gtest.h>

#include <cmath>

namespace thaw {
namespace {

class TrainablesTest : public ::testing::Test {
 protected:
  TrainablesTest() {
    torch::NoGradGuard no_grad;
    Add("low.weight", 0, torch::arange(35, torch::kFloat32).view({5, 7}));
    Add("mid.weight", 1, torch::ones({3, 3}));
    Add("mid.bias", 1, torch::full({3}, 2.0f));
    Add("top.weight", 2, torch::full({2, 3}, 0.5f));
  }

  void Add(const char* name, int group, torch::Tensor tensor, bool rounds = false) {
    Parameter parameter;
    parameter.rounds = rounds;
    parameter.name = name;
    parameter.group = parameter.first_use = group;
    parameter.tensor = std::move(tensor);
    parameters_.Add(std::move(parameter));
  }

  // Sets every gradient to `value` by way of autograd.
  void Backward(float value) {
    torch::Tensor loss = torch::zeros({});
    for (const Parameter& parameter : parameters_.all()) {
      if (parameter.tensor.requires_grad()) loss = loss + parameter.tensor.sum() * value;
    }
    loss.backward();
  }

  torch::Tensor Value(const std::string& name) { return parameters_.Find(name)->tensor.detach(); }

  Parameters parameters_;
};

TEST_F(TrainablesTest, UpdatesByGroupRateAndDecaysMatricesOnly) {
  auto trainables = *Trainables::Create(&parameters_, {"mid.weight", "mid.bias", "top.weight"},
                                        {0.1, 0.1, 0.2}, {});
  ASSERT_TRUE(trainables->CheckComplete().ok());
  Backward(4.0f);
  ASSERT_TRUE(trainables->CheckComplete().ok());
  const Norms norms = trainables->GradientNorms();
  EXPECT_NEAR(norms.all, 4.0 * std::sqrt(9 + 3 + 6), 1e-6);
  ASSERT_EQ(norms.groups.size(), 2u) << "of what trains";
  EXPECT_NEAR(norms.groups.at(1), 4.0 * std::sqrt(9 + 3), 1e-6);
  EXPECT_NEAR(norms.groups.at(2), 4.0 * std::sqrt(6), 1e-6);
  const Norms updates = trainables->Update(0.5, {.weight_decay = 0.1});
  // What the assertions below say of each tensor, summed up.
  const double matrix = 0.05 * 0.1 + 0.05, bias = 0.05, top = 0.5 * 0.01 + 0.1;
  EXPECT_NEAR(updates.groups.at(1), std::sqrt(9 * matrix * matrix + 3 * bias * bias), 1e-6);
  EXPECT_NEAR(updates.groups.at(2), std::sqrt(6 * top * top), 1e-6);
  EXPECT_NEAR(updates.all, std::hypot(updates.groups.at(1), updates.groups.at(2)), 1e-9);
  // The first update of Adam is the rate itself, against the gradient's sign.
  EXPECT_TRUE(torch::allclose(Value("mid.weight"), torch::full({3, 3}, 1 - 0.05f * 0.1f - 0.05f)));
  EXPECT_TRUE(torch::allclose(Value("mid.bias"), torch::full({3}, 2 - 0.05f)));
  EXPECT_TRUE(torch::allclose(Value("top.weight"), torch::full({2, 3}, 0.5f * (1 - 0.01f) - 0.1f)));
  EXPECT_TRUE(torch::equal(Value("low.weight"), torch::arange(35, torch::kFloat32).view({5, 7})));
  EXPECT_EQ(trainables->GradientNorms().all, 0);
  for (const auto& [name, moments] : trainables->moments()) EXPECT_EQ(moments.updates, 1) << name;
}

TEST_F(TrainablesTest, EveryTensorHasARateOfItsOwn) {
  auto trainables = *Trainables::Create(&parameters_, {"mid.weight", "mid.bias"}, {0.1, 0.4}, {});
  Backward(1.0f);
  trainables->Update(0.5, {.weight_decay = 0});
  EXPECT_TRUE(torch::allclose(Value("mid.weight"), torch::full({3, 3}, 1 - 0.05f)));
  EXPECT_TRUE(torch::allclose(Value("mid.bias"), torch::full({3}, 2 - 0.2f)));
}

TEST_F(TrainablesTest, NormsAddUpOverPiecesOfLargeTensors) {
  Add("top.large", 2, torch::zeros({300, 1000}));  // several pieces, the last one short
  auto trainables = *Trainables::Create(&parameters_, {"mid.bias", "top.large"}, {0.1, 0.2}, {});
  Backward(0.5f);
  const Norms norms = trainables->GradientNorms();
  EXPECT_NEAR(norms.all, 0.5 * std::sqrt(300'003), 1e-6);
  EXPECT_NEAR(norms.groups.at(2), 0.5 * std::sqrt(300'000), 1e-6);
}

TEST_F(TrainablesTest, KeepsMomentsOfThoseThatStayAndStartsOthersFresh) {
  auto first = *Trainables::Create(&parameters_, {"top.weight"}, {0.2}, {});
  for (int i = 0; i < 3; ++i) {
    Backward(1.0f);
    first->Update(1, {});
  }
  const MomentsByName moments = first->moments();
  first->Release();
  EXPECT_FALSE(parameters_.Find("top.weight")->tensor.requires_grad());
  auto second =
      *Trainables::Create(&parameters_, {"low.weight", "top.weight"}, {0.01, 0.2}, moments);
  const MomentsByName kept = second->moments();
  EXPECT_EQ(kept.at("top.weight").updates, 3);
  EXPECT_EQ(kept.at("low.weight").updates, 0);
  EXPECT_TRUE(torch::equal(kept.at("top.weight").first, moments.at("top.weight").first));
  EXPECT_TRUE(torch::equal(kept.at("top.weight").second, moments.at("top.weight").second));
  EXPECT_TRUE(torch::equal(kept.at("low.weight").first, torch::zeros({5, 7})));
  Backward(1.0f);
  second->Update(1, {});
  EXPECT_EQ(second->moments().at("top.weight").updates, 4);
  EXPECT_EQ(second->moments().at("low.weight").updates, 1);
}

TEST_F(TrainablesTest, HalvesAreWhatTheirTensorsRoundToAfterEveryStep) {
  torch::manual_seed(3);
  Add("low.matrix", 0, torch::randn({37, 11}), /*rounds=*/true);
  Add("top.matrix", 2, torch::randn({300, 301}), /*rounds=*/true);  // of several pieces
  const auto expect_rounded = [this](const std::string& when) {
    for (const Parameter& parameter : parameters_.all()) {
      ASSERT_EQ(parameter.half.defined(), parameter.rounds) << parameter.name << ' ' << when;
      if (!parameter.rounds) continue;
      EXPECT_TRUE(torch::equal(parameter.half, parameter.tensor.detach().to(torch::kBFloat16)))
          << parameter.name << ' ' << when;
    }
  };
  parameters_.RoundMatrices();
  expect_rounded("as loaded");
  const torch::Tensor frozen = parameters_.Find("low.matrix")->half;
  auto first = *Trainables::Create(&parameters_, {"mid.bias", "top.matrix"}, {0.1, 0.2}, {});
  for (int step = 0; step < 3; ++step) {
    expect_rounded("before a step");
    const torch::Tensor before = parameters_.Find("top.matrix")->half.clone();
    Backward(1.0f);
    first->Update(1, {});
    EXPECT_FALSE(torch::equal(parameters_.Find("top.matrix")->half, before));
  }
  expect_rounded("after the last step");
  first->Release();
  parameters_.RoundMatrices();
  expect_rounded("once released");
  auto second =
      *Trainables::Create(&parameters_, {"low.matrix", "mid.bias", "top.matrix"}, {1, 1, 1}, {});
  Backward(1.0f);
  second->Update(1, {});
  expect_rounded("in the next phase");
  EXPECT_FALSE(torch::equal(parameters_.Find("low.matrix")->half, frozen));
}

TEST_F(TrainablesTest, TrainsMatricesThatAreOfAFilesType) {
  const torch::Tensor stored = torch::full({2, 2}, 0.5f).to(torch::kBFloat16);
  Add("top.stored", 2, stored, /*rounds=*/true);
  auto trainables = *Trainables::Create(&parameters_, {"top.stored"}, {0.001}, {});
  EXPECT_EQ(Value("top.stored").scalar_type(), torch::kFloat32);
  Backward(1.0f);
  trainables->Update(1, {.weight_decay = 0});
  EXPECT_TRUE(torch::allclose(Value("top.stored"), torch::full({2, 2}, 0.499f), 0, 1e-7));
  EXPECT_TRUE(torch::equal(stored, torch::full({2, 2}, 0.5f).to(torch::kBFloat16)));
}

TEST_F(TrainablesTest, SeesWhatTheOptimizerWouldMiss) {
  auto trainables = *Trainables::Create(&parameters_, {"top.weight"}, {0.2}, {});
  ASSERT_TRUE(trainables->CheckComplete().ok());
  torch::Tensor stray = torch::ones({3});
  stray.set_requires_grad(true);
  ASSERT_TRUE(parameters_.SetTensor("mid.bias", stray).ok());
  EXPECT_EQ(trainables->CheckComplete().code(), absl::StatusCode::kInternal);
  ASSERT_TRUE(parameters_.SetTensor("mid.bias", torch::ones({3})).ok());
  ASSERT_TRUE(trainables->CheckComplete().ok());
  torch::Tensor copy = Value("top.weight").clone();
  copy.set_requires_grad(true);
  ASSERT_TRUE(parameters_.SetTensor("top.weight", copy).ok());
  EXPECT_EQ(trainables->CheckComplete().code(), absl::StatusCode::kInternal);
}

TEST_F(TrainablesTest, RefusesWhatItCannotTrain) {
  EXPECT_EQ(Trainables::Create(&parameters_, {"no.such"}, {0.1}, {}).status().code(),
            absl::StatusCode::kNotFound);
  Add("ids", 0, torch::zeros({3}, torch::kInt64));
  EXPECT_EQ(Trainables::Create(&parameters_, {"ids"}, {0.1}, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace thaw
