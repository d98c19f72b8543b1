// Against PEFT: logits of its adapters, merged ones, loss, gradients and ten steps of training.
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "absl/strings/match.h"
#include "common/base/json.h"
#include "gtest/gtest.h"
#include "tests/worker/tuning/adapter_fixture.h"
#include "worker/tuning/added_part.h"
#include "worker/tuning/peft_files.h"
#include "worker/tuning/virtual_tokens.h"

namespace thaw {
namespace {

using torch::Tensor;

struct PeftCase {
  const char* model;
  const char* method;
  // Of logits, absolute; of gradient norms and of the losses of ten steps, relative. T5's scores
  // are not scaled, and PEFT's own unmerged and merged logits differ by 6e-4 with all of its layers
  // changed, by 8e-5 with rsLoRA.
  double tolerance = 2e-5, gradient_tolerance = 1e-4, loss_tolerance = 1e-5;
  // Where gradients have norms of hundreds, AdamW's first step makes of rounding another model.
  int steps = 10;
};
constexpr PeftCase kPeftCases[] = {
    {"llama", "lora-all-linear"},
    {"llama", "lora-qv"},
    {"llama", "rslora-qv"},
    {"llama", "lora-bias"},
    {"llama", "dora-qv"},
    {"gpt2", "lora-all-linear"},
    {"gpt2", "lora-qv"},
    {"gpt2", "rslora-qv"},
    {"gpt2", "lora-bias"},
    {"gpt2", "dora-qv"},
    {"bert-cls", "lora-all-linear", 2e-5, 1e-4, 5e-5},
    {"bert-cls", "lora-qv"},
    {"bert-cls", "rslora-qv"},
    {"bert-cls", "lora-bias"},
    {"bert-cls", "dora-qv"},
    {"t5", "lora-all-linear", 1e-3, 1e-3, 1e-5, 1},
    {"t5", "lora-qv"},
    {"t5", "rslora-qv", 3e-4, 1e-3, 1e-5, 1},
    {"t5", "lora-bias", 6e-5},
    {"t5", "dora-qv"},
    {"llama", "ia3"},
    {"gpt2", "ia3"},
    {"bert-cls", "ia3"},
    {"t5", "ia3"},
    {"llama", "prompt-tuning"},
    {"gpt2", "prompt-tuning"},
    {"bert-cls", "prompt-tuning"},
    {"t5", "prompt-tuning", 1e-3},
    {"llama", "prefix-tuning"},
    {"gpt2", "prefix-tuning"},
    {"bert-cls", "prefix-tuning"},
    {"t5", "prefix-tuning", 1e-3},
};

void PrintTo(const PeftCase& peft, std::ostream* out) { *out << peft.model << "/" << peft.method; }
std::string NameOf(const ::testing::TestParamInfo<PeftCase>& info) {
  return FixtureTestName(std::string(info.param.model) + "_" + info.param.method);
}

// A third of these biases is noise: softmax does not see what is added to the keys.
bool IsKeysBiasInPart(const std::string& name) { return absl::EndsWith(name, "c_attn.bias"); }

// PEFT keeps the keys and values of all blocks in one tensor.
std::string RecordedName(const Parameter& parameter) {
  return absl::StartsWith(parameter.name, kPrefixName) ? kPromptName : parameter.name;
}

// PEFT's labels make the prompt's last row, too, answer for a token: the first of the sequence.
Tensor LossOf(Model& model, const FixtureBatch& batch, const RunContext& context) {
  if (model.added().prompt == nullptr || !model.config().causal) {
    return MeanLoss(model, batch, context);
  }
  Rows rows = model.Embed(batch.packed, context);
  for (int i = 0; i < model.blocks(); ++i) rows = model.Block(i, rows, context);
  std::vector<Tensor> labels;
  for (size_t s = 0; s + 1 < rows.cu_seqlens.size(); ++s) {
    const int32_t begin = batch.packed.cu_seqlens[s], end = batch.packed.cu_seqlens[s + 1];
    labels.push_back(at::full({model.added().virtual_tokens - 1}, -100, torch::kInt64));
    // Where a beginning counts nothing, the first token does not either.
    const Tensor first = batch.labels.slice(0, begin, begin + 1);
    labels.push_back(
        at::where(first == -100, first, batch.packed.token_ids.slice(0, begin, begin + 1)));
    labels.push_back(batch.labels.slice(0, begin, end));
  }
  const OutputLayer output = model.output_layer();
  const Tensor all = at::cat(labels);
  return LinearCrossEntropySum(Path::kKernels, model.OutputStates(rows, Tensor(), context),
                               output.weight, output.bias, all) /
         (all != -100).sum().item<double>();
}

class PeftParity : public ::testing::TestWithParam<PeftCase> {
 protected:
  PeftParity()
      : directory_(AdapterDirectory(GetParam().model, GetParam().method)),
        fixture_(GetParam().model, std::nullopt),
        json_(ReadJsonFile(directory_ + "/expected.json").value()) {}

  void SetUp() override {
    const auto part = LoadAdapter(directory_, fixture_.model.get());
    ASSERT_TRUE(part.ok()) << part.status();
  }

  double DifferenceFrom(const std::string& name, const RunContext& context) {
    torch::NoGradGuard no_grad;
    const FixtureBatch batch = fixture_.Batch(0);
    const Tensor expected = RecordedLogits(directory_, name, batch);
    const Tensor found = LogitsOf(*fixture_.model, batch.packed, context);
    return MaxDifference(found.slice(1, 0, expected.size(1)), expected);
  }

  const std::string directory_;
  ModelFixture fixture_;
  const nlohmann::json json_;
};

TEST_P(PeftParity, LogitsArePefts) {
  for (const bool reference : {false, true}) {
    const double worst = DifferenceFrom("logits", {.reference = reference});
    std::printf("[ FIGURE   ] %s/%s%s: logits differ by at most %.2e\n", GetParam().model,
                GetParam().method, reference ? " (reference path)" : "", worst);
    EXPECT_LT(worst, GetParam().tolerance);
  }
}

TEST_P(PeftParity, MergedLogitsArePefts) {
  if (fixture_.model->added().virtual_tokens > 0) {
    EXPECT_EQ(MergePart(fixture_.model.get()).code(), absl::StatusCode::kFailedPrecondition);
    return;
  }
  ASSERT_TRUE(MergePart(fixture_.model.get()).ok());
  const double merged = DifferenceFrom("merged_logits", {});
  const double unmerged = DifferenceFrom("logits", {});
  std::printf(
      "[ FIGURE   ] %s/%s: merged logits differ from merged by %.2e, from unmerged by %.2e\n",
      GetParam().model, GetParam().method, merged, unmerged);
  EXPECT_LT(merged, GetParam().tolerance);
  EXPECT_LT(unmerged, std::max(GetParam().tolerance, 4e-5));
}

TEST_P(PeftParity, LossAndGradientNormsArePefts) {
  const auto trained = TrainPart(*fixture_.model);
  const Tensor loss = LossOf(*fixture_.model, fixture_.Batch(0), {.training = true});
  loss.backward();
  const double expected = json_["loss"];
  EXPECT_LT(std::abs(loss.item<double>() - expected) / expected, 1e-6);
  std::map<std::string, double> squares;
  for (const Parameter* parameter : trained) {
    squares[RecordedName(*parameter)] +=
        std::pow(parameter->tensor.grad().norm().item<double>(), 2);
  }
  double worst = 0;
  for (const auto& [name, square] : squares) {
    ASSERT_TRUE(json_["grad_norms"].contains(name)) << name;
    const double norm = json_["grad_norms"][name], found = std::sqrt(square);
    EXPECT_NEAR(found, norm, GetParam().gradient_tolerance * norm + 1e-9) << name;
    if (norm > 0) worst = std::max(worst, std::abs(found - norm) / norm);
  }
  EXPECT_EQ(json_["grad_norms"].size(), squares.size());
  for (const Parameter& parameter : fixture_.model->parameters().all()) {
    EXPECT_EQ(parameter.tensor.requires_grad(), parameter.added() || parameter.beside_added);
  }
  std::printf("[ FIGURE   ] %s/%s: gradient norms off by at most %.1e (relative)\n",
              GetParam().model, GetParam().method, worst);
}

TEST_P(PeftParity, TenStepsArePefts) {
  const auto trained = TrainPart(*fixture_.model);
  const nlohmann::json& trace = json_["train"];
  const auto no_decay = trace["no_decay"].get<std::set<std::string>>();
  std::map<std::string, TraceMoments> moments;
  double worst_loss = 0, worst_norm = 0, worst_sum = 0;
  for (int t = 0; t < GetParam().steps; ++t) {
    const Tensor loss = LossOf(*fixture_.model, fixture_.Batch(t % 3), {.training = true});
    loss.backward();
    torch::NoGradGuard no_grad;
    double square = 0;
    for (const Parameter* parameter : trained) {
      square += std::pow(parameter->tensor.grad().norm().item<double>(), 2);
    }
    const double norm = std::sqrt(square), expected = trace["losses"][t];
    const double expected_norm = trace["grad_norm_before_clip"][t];
    worst_loss = std::max(worst_loss, std::abs(loss.item<double>() - expected) / expected);
    worst_norm = std::max(worst_norm, std::abs(norm - expected_norm) / expected_norm);
    for (const Parameter* parameter : trained) {
      StepAdamW(parameter->tensor, moments[parameter->name], t + 1, 5e-4 * (10 - t) / 10,
                no_decay.count(parameter->name) > 0 ? 0 : 0.01, std::min(1.0, 1 / (norm + 1e-6)));
      parameter->tensor.mutable_grad().reset();
    }
  }
  std::map<std::string, std::vector<Tensor>> finals;
  for (const Parameter* parameter : trained) {
    finals[RecordedName(*parameter)].push_back(
        parameter->tensor.detach().to(torch::kFloat64).reshape({-1}));
  }
  for (const auto& [name, parts] : finals) {
    if (GetParam().steps < 10) break;
    const Tensor final = at::cat(parts);
    const auto expected = trace["final_sum_abssum"][name].get<std::vector<double>>();
    const double sum = std::abs(final.sum().item<double>() - expected[0]) / expected[1];
    const double absolute = std::abs(final.abs().sum().item<double>() - expected[1]) / expected[1];
    // Elements of noise go at most the sum of the rates, either way.
    const double noise = IsKeysBiasInPart(name)
                             ? 2 * 5e-4 * 5.5 * static_cast<double>(final.numel()) / 3 / expected[1]
                             : 1e-5;
    EXPECT_LT(std::max(sum, absolute), noise) << name;
    if (noise == 1e-5) worst_sum = std::max({worst_sum, sum, absolute});
  }
  std::printf(
      "[ FIGURE   ] %s/%s: %d steps: loss off by at most %.1e, gradient norm by %.1e, sums of the "
      "weights by %.1e (relative)\n",
      GetParam().model, GetParam().method, GetParam().steps, worst_loss, worst_norm, worst_sum);
  EXPECT_LT(worst_loss, GetParam().loss_tolerance);
  EXPECT_LT(worst_norm, std::max(GetParam().gradient_tolerance, 5e-4));
}

INSTANTIATE_TEST_SUITE_P(Adapters, PeftParity, ::testing::ValuesIn(kPeftCases), NameOf);

}  // namespace
}  // namespace thaw
