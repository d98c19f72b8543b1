// Against transformers: hidden states, logits, loss, gradients and ten steps of training.
#include <cmath>
#include <set>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "tests/worker/model/model_fixture.h"
#include "worker/model/ops.h"

namespace thaw {
namespace {

using torch::Tensor;

HeadSpec TwoLabels() { return {{"no", "yes"}, ProblemType::kSingleLabel, 1}; }

std::optional<HeadSpec> HeadFor(const std::string& fixture) {
  if (fixture == "bert") return TwoLabels();  // recorded with another head than ours
  return std::nullopt;
}

Tensor MeanLoss(Model& model, const FixtureBatch& batch, const RunContext& context) {
  const Tensor logits = LogitsOf(model, batch.packed, context);
  const double units = static_cast<double>(batch.labels.size(0));
  if (model.config().problem == ProblemType::kRegression) {
    return SquaredErrorSum(logits.squeeze(1), batch.labels) / units;
  }
  return CrossEntropySum(logits, batch.labels) / units;
}

bool IsNoise(const std::string& parameter) { return absl::EndsWith(parameter, "key.bias"); }

class HiddenStates : public ::testing::TestWithParam<std::tuple<const char*, bool>> {};

TEST_P(HiddenStates, AreTransformers) {
  const auto& [name, reference] = GetParam();
  ModelFixture fixture(name, HeadFor(name));
  const FixtureBatch batch = fixture.Batch(0);
  const RunContext context{.all_rows = true, .reference = reference};
  torch::NoGradGuard no_grad;
  Rows rows = fixture.model->Embed(batch.packed, context);
  double worst = MaxDifference(rows.data, fixture.ExpectedRows("hidden_states.0", batch));
  for (int i = 0; i < fixture.model->blocks(); ++i) {
    rows = fixture.model->Block(i, rows, context);
    const std::string state = "hidden_states." + std::to_string(i + 1);
    worst = std::max(worst, MaxDifference(rows.data, fixture.ExpectedRows(state, batch)));
  }
  std::printf("[ FIGURE   ] %s%s: hidden states differ by at most %.2e\n", name,
              reference ? " (reference path)" : "", worst);
  EXPECT_LT(worst, 2e-5);
  if (HeadFor(name)) return;
  const double logits =
      MaxDifference(fixture.model->Head(rows, context), fixture.Expected("logits"));
  const double short_cut = MaxDifference(
      LogitsOf(*fixture.model, batch.packed, {.reference = reference}), fixture.Expected("logits"));
  std::printf("[ FIGURE   ] %s: logits differ by at most %.2e\n", name,
              std::max(logits, short_cut));
  EXPECT_LT(logits, 2e-5);
  EXPECT_LT(short_cut, 2e-5);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, HiddenStates,
                         ::testing::Combine(::testing::Values("bert", "bert-cls",
                                                              "bert-regression"),
                                            ::testing::Bool()));

class Training : public ::testing::TestWithParam<const char*> {};

TEST_P(Training, GradientNormsAreTransformers) {
  ModelFixture fixture(GetParam(), std::nullopt);
  MakeTrainable(*fixture.model);
  const Tensor loss = MeanLoss(*fixture.model, fixture.Batch(0), {.training = true});
  loss.backward();
  const double expected = fixture.json["loss"];
  const double loss_error = std::abs(loss.item<double>() - expected) / expected;
  double worst = 0;
  for (const Parameter& parameter : fixture.model->parameters().all()) {
    const double norm = fixture.json["grad_norms"][parameter.name];
    const double found = parameter.tensor.grad().norm().item<double>();
    if (IsNoise(parameter.name)) {
      EXPECT_LT(found, 1e-5);
      continue;
    }
    EXPECT_NEAR(found, norm, 1e-4 * norm) << parameter.name;
    worst = std::max(worst, std::abs(found - norm) / norm);
  }
  std::printf("[ FIGURE   ] %s: loss off by %.1e, gradient norms by at most %.1e (relative)\n",
              GetParam(), loss_error, worst);
  EXPECT_LT(loss_error, 1e-6);
  EXPECT_EQ(fixture.json["grad_norms"].size(), fixture.model->parameters().all().size());
}

// One step of torch.optim.AdamW on one tensor, in its own words.
struct Moments {
  Tensor first, second;
};
void AdamWStep(const Tensor& p, Moments& moments, int t, double rate, double decay, double scale) {
  const Tensor g = p.grad() * scale;
  if (!moments.first.defined()) {
    moments.first = at::zeros_like(p);
    moments.second = at::zeros_like(p);
  }
  moments.first = 0.9 * moments.first + 0.1 * g;
  moments.second = 0.999 * moments.second + 0.001 * g * g;
  const Tensor denominator = (moments.second / (1 - std::pow(0.999, t))).sqrt() + 1e-8;
  p.mul_(1 - rate * decay);
  p.sub_(rate / (1 - std::pow(0.9, t)) * moments.first / denominator);
}

TEST_P(Training, TenStepsAreTransformers) {
  ModelFixture fixture(GetParam(), std::nullopt);
  MakeTrainable(*fixture.model);
  const nlohmann::json& trace = fixture.json["train"];
  const auto no_decay = trace["no_decay"].get<std::set<std::string>>();
  std::map<std::string, Moments> moments;
  double worst_loss = 0, worst_norm = 0;
  for (int t = 0; t < 10; ++t) {
    const Tensor loss = MeanLoss(*fixture.model, fixture.Batch(t % 3), {.training = true});
    loss.backward();
    torch::NoGradGuard no_grad;
    double square = 0;
    for (const Parameter& parameter : fixture.model->parameters().all()) {
      square += std::pow(parameter.tensor.grad().norm().item<double>(), 2);
    }
    const double norm = std::sqrt(square), expected = trace["losses"][t];
    worst_loss = std::max(worst_loss, std::abs(loss.item<double>() - expected) / expected);
    const double expected_norm = trace["grad_norm_before_clip"][t];
    worst_norm = std::max(worst_norm, std::abs(norm - expected_norm) / expected_norm);
    for (const Parameter& parameter : fixture.model->parameters().all()) {
      AdamWStep(parameter.tensor, moments[parameter.name], t + 1, 5e-4 * (10 - t) / 10,
                no_decay.count(parameter.name) > 0 ? 0 : 0.01, std::min(1.0, 1 / (norm + 1e-6)));
      parameter.tensor.mutable_grad().reset();
    }
  }
  double worst_sum = 0;
  for (const Parameter& parameter : fixture.model->parameters().all()) {
    if (IsNoise(parameter.name)) continue;
    const Tensor final = parameter.tensor.detach().to(torch::kFloat64);
    const auto expected = trace["final_sum_abssum"][parameter.name].get<std::vector<double>>();
    const double sum = std::abs(final.sum().item<double>() - expected[0]) / expected[1];
    const double absolute = std::abs(final.abs().sum().item<double>() - expected[1]) / expected[1];
    EXPECT_LT(std::max(sum, absolute), 1e-5) << parameter.name;
    worst_sum = std::max({worst_sum, sum, absolute});
  }
  std::printf(
      "[ FIGURE   ] %s: ten steps of AdamW: loss off by at most %.1e, gradient norm by %.1e, "
      "sums of the weights by %.1e (relative)\n",
      GetParam(), worst_loss, worst_norm, worst_sum);
  EXPECT_LT(worst_loss, 1e-5);
  EXPECT_LT(worst_norm, 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Training, ::testing::Values("bert-cls", "bert-regression"));

}  // namespace
}  // namespace thaw
