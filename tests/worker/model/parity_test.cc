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

// What is recorded, and how exactly it can be met: values in the hundreds have fewer digits left.
struct ParityCase {
  const char* fixture;
  double hidden_tolerance = 2e-5;  // absolute: hidden states and logits
};
constexpr ParityCase kCases[] = {
    // Encoders.
    {"bert"},
    {"bert-cls"},
    {"bert-regression"},
    {"roberta"},
    {"roberta-cls"},
    {"distilbert"},
    {"distilbert-cls"},
    {"distilbert-multilabel"},
    // Decoders.
    {"gpt2"},
    {"gpt2-scaled"},
    {"gpt2-cls"},
    {"bloom-4heads"},
    {"bloom-5heads"},
    {"llama"},
    {"llama-tied-bias"},
    {"llama-rope-llama3"},
    {"llama-rope-yarn"},
    {"llama-rope-linear"},
    {"llama-cls"},
    {"mistral"},
    {"qwen2"},
    {"qwen2-window"},
    {"qwen3"},
    // Sequence to sequence.
    {"t5"},
    {"t5-v1.1", 1e-4},
};

void PrintTo(const ParityCase& parity, std::ostream* out) { *out << parity.fixture; }
std::string NameOf(const ::testing::TestParamInfo<ParityCase>& info) {
  return FixtureTestName(info.param.fixture);
}

// Their true gradient is 0, since a softmax does not see what is added to all of its row: what is
// recorded is rounding, which AdamW turns into whole steps.
bool IsNoise(const std::string& parameter) {
  return absl::EndsWith(parameter, "key.bias") || absl::EndsWith(parameter, "k_lin.bias");
}
// A third of these biases is such noise: the keys' part of a fused projection.
bool IsNoiseInPart(const std::string& parameter) {
  return absl::EndsWith(parameter, "attn.c_attn.bias") ||
         absl::EndsWith(parameter, "query_key_value.bias");
}

// logits as recorded, by packed row or by sequence.
Tensor ExpectedLogits(const ModelFixture& fixture, const FixtureBatch& batch) {
  const Tensor logits = fixture.Expected("logits");
  if (logits.dim() == 2) return logits;
  if (batch.packed.target_ids.defined()) return logits.flatten(0, 1);
  return fixture.ExpectedRows("logits", batch);
}

class Parity : public ::testing::TestWithParam<ParityCase> {};

TEST_P(Parity, HiddenStatesAndLogitsAreTransformers) {
  const auto& [name, tolerance] = GetParam();
  ModelFixture fixture(name, std::nullopt);
  Model& model = *fixture.model;
  const FixtureBatch batch = fixture.Batch(0);
  torch::NoGradGuard no_grad;
  for (const bool reference : {false, true}) {
    const RunContext context{.all_rows = true, .reference = reference};
    Rows rows = model.Embed(batch.packed, context);
    double worst = 0;
    // Sequence to sequence records the decoder's states alone, the embedded target being the first.
    const int first = model.first_decoder_block();
    const auto compare = [&](const Tensor& found, const std::string& state) {
      const Tensor expected = batch.packed.target_ids.defined()
                                  ? fixture.Expected(state).flatten(0, 1)
                                  : fixture.ExpectedRows(state, batch);
      worst = std::max(worst, MaxDifference(found, expected));
    };
    for (int i = 0; i < model.blocks(); ++i) {
      if (i == 0) compare(first > 0 ? rows.other : rows.data, "hidden_states.0");
      rows = model.Block(i, rows, context);
      // The last state is recorded behind the final norm.
      if (i >= first && i + 1 < model.blocks()) {
        compare(rows.data, "hidden_states." + std::to_string(i + 1 - first));
      }
    }
    compare(model.Hidden(rows, context), "last_hidden_state");
    const double logits =
        MaxDifference(LogitsOf(model, batch.packed, context), ExpectedLogits(fixture, batch));
    const double short_cut = MaxDifference(LogitsOf(model, batch.packed, {.reference = reference}),
                                           ExpectedLogits(fixture, batch));
    std::printf("[ FIGURE   ] %s%s: hidden states differ by at most %.2e, logits by %.2e\n", name,
                reference ? " (reference path)" : "", worst, std::max(logits, short_cut));
    EXPECT_LT(worst, tolerance);
    EXPECT_LT(logits, tolerance);
    EXPECT_LT(short_cut, tolerance);
  }
}

TEST_P(Parity, LossAndGradientNormsAreTransformers) {
  const char* const name = GetParam().fixture;
  ModelFixture fixture(name, std::nullopt);
  MakeTrainable(*fixture.model);
  const Tensor loss = MeanLoss(*fixture.model, fixture.Batch(0), {.training = true});
  loss.backward();
  const double expected = fixture.json["loss"];
  const double loss_error = std::abs(loss.item<double>() - expected) / expected;
  double worst = 0;
  for (const Parameter& parameter : fixture.model->parameters().all()) {
    ASSERT_TRUE(fixture.json["grad_norms"].contains(parameter.name)) << parameter.name;
    const double norm = fixture.json["grad_norms"][parameter.name];
    ASSERT_TRUE(parameter.tensor.grad().defined() || norm == 0) << parameter.name;
    if (!parameter.tensor.grad().defined()) continue;
    const double found = parameter.tensor.grad().norm().item<double>();
    if (IsNoise(parameter.name)) {
      EXPECT_LT(found, 1e-5);
      continue;
    }
    EXPECT_NEAR(found, norm, 1e-4 * norm) << parameter.name;
    if (norm > 0) worst = std::max(worst, std::abs(found - norm) / norm);
  }
  std::printf("[ FIGURE   ] %s: loss off by %.1e, gradient norms by at most %.1e (relative)\n",
              name, loss_error, worst);
  EXPECT_LT(loss_error, 1e-6);
  EXPECT_EQ(fixture.json["grad_norms"].size(), fixture.model->parameters().all().size());
}

TEST_P(Parity, TenStepsAreTransformers) {
  const char* const name = GetParam().fixture;
  ModelFixture fixture(name, std::nullopt);
  MakeTrainable(*fixture.model);
  const nlohmann::json& trace = fixture.json["train"];
  const auto no_decay = trace["no_decay"].get<std::set<std::string>>();
  std::map<std::string, TraceMoments> moments;
  double worst_loss = 0, worst_norm = 0;
  for (int t = 0; t < 10; ++t) {
    const Tensor loss = MeanLoss(*fixture.model, fixture.Batch(t % 3), {.training = true});
    loss.backward();
    torch::NoGradGuard no_grad;
    double square = 0;
    for (const Parameter& parameter : fixture.model->parameters().all()) {
      if (!parameter.tensor.grad().defined())
        parameter.tensor.mutable_grad() = at::zeros_like(parameter.tensor);
      square += std::pow(parameter.tensor.grad().norm().item<double>(), 2);
    }
    const double norm = std::sqrt(square), expected = trace["losses"][t];
    worst_loss = std::max(worst_loss, std::abs(loss.item<double>() - expected) / expected);
    const double expected_norm = trace["grad_norm_before_clip"][t];
    worst_norm = std::max(worst_norm, std::abs(norm - expected_norm) / expected_norm);
    for (const Parameter& parameter : fixture.model->parameters().all()) {
      StepAdamW(parameter.tensor, moments[parameter.name], t + 1, 5e-4 * (10 - t) / 10,
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
    if (IsNoiseInPart(parameter.name)) {
      // Elements of noise go at most the sum of the rates, either way.
      const double steps = 2 * 5e-4 * 5.5 * static_cast<double>(final.numel()) / 3;
      EXPECT_LT(std::max(sum, absolute), steps / expected[1]) << parameter.name;
      continue;
    }
    EXPECT_LT(std::max(sum, absolute), 1e-5) << parameter.name;
    worst_sum = std::max({worst_sum, sum, absolute});
  }
  std::printf(
      "[ FIGURE   ] %s: ten steps of AdamW: loss off by at most %.1e, gradient norm by %.1e, "
      "sums of the weights by %.1e (relative)\n",
      name, worst_loss, worst_norm, worst_sum);
  EXPECT_LT(worst_loss, 1e-5);
  EXPECT_LT(worst_norm, 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Parity, ::testing::ValuesIn(kCases), NameOf);

}  // namespace
}  // namespace thaw
