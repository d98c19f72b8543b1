// What every part promises: the base's bits at first, targets by name, frozen tensors left alone.
#include "worker/tuning/added_part.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/tuning/adapter_fixture.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using torch::Tensor;

std::vector<std::string> ChangedLayers(const Model& model) {
  std::vector<std::string> names;
  for (const LinearLayer& linear : model.linears()) {
    if (linear.added) names.push_back(linear.name);
  }
  return names;
}

std::vector<std::string> NamesWhere(const Model& model, bool Parameter::*flag) {
  std::vector<std::string> names;
  for (const Parameter& parameter : model.parameters().all()) {
    if (parameter.*flag) names.push_back(parameter.name);
  }
  return names;
}

using GradientsByName = std::map<std::string, Tensor>;

// The gradients of the added tensors; no other tensor may have one.
GradientsByName PartGradients(const Model& model) {
  GradientsByName gradients;
  for (const Parameter& parameter : model.parameters().all()) {
    EXPECT_EQ(parameter.tensor.grad().defined(), parameter.added()) << parameter.name;
    if (parameter.added()) gradients[parameter.name] = parameter.tensor.grad();
  }
  return gradients;
}

// The kernels' loss and gradients [0] against the reference path's [1].
void ExpectAgreement(const Tensor (&losses)[2], const GradientsByName (&gradients)[2]) {
  EXPECT_LT(MaxDifference(losses[0], losses[1]), 1e-5);
  for (const auto& [name, gradient] : gradients[0]) {
    EXPECT_LT(MaxDifference(gradient, gradients[1].at(name)),
              1e-4 * gradient.abs().max().item<double>() + 1e-7)
        << name;
  }
}

class EveryFamily : public ::testing::TestWithParam<const char*> {};

constexpr const char* kFamilies[] = {
    "bert-cls",     "bert",  "roberta-cls", "distilbert-cls",  "gpt2",    "gpt2-cls",
    "bloom-4heads", "llama", "llama-cls",   "llama-tied-bias", "mistral", "qwen2",
    "qwen3",        "t5",    "t5-v1.1"};

TEST_P(EveryFamily, AFreshPartLeavesEveryBitAsItWas) {
  torch::NoGradGuard no_grad;
  for (const char* text :
       {"lora { rank: 4 alpha: 8 }", "lora { rank: 4 alpha: 8 rank_stabilized: true }",
        "lora { rank: 4 alpha: 8 dora: true }", "lora { rank: 4 alpha: 8 bias: ALL_BIASES }",
        "ia3 { }"}) {
    for (const auto& [reference, half] :
         {std::pair(false, false), {true, false}, {false, true}, {true, true}}) {
      ModelFixture base(GetParam(), std::nullopt, half), changed(GetParam(), std::nullopt, half);
      const absl::Status added = AddPart(PartOf(text), 7, changed.model.get());
      ASSERT_TRUE(added.ok()) << added;
      ASSERT_FALSE(ChangedLayers(*changed.model).empty());
      const Packed packed = base.Batch(0).packed;
      const RunContext context{.reference = reference};
      EXPECT_TRUE(at::equal(LogitsOf(*base.model, packed, context),
                            LogitsOf(*changed.model, packed, context)))
          << text << (reference ? " (reference path)" : "") << (half ? " in bf16" : "");
      ASSERT_TRUE(MergePart(changed.model.get()).ok());
      for (const Parameter& parameter : base.model->parameters().all()) {
        EXPECT_TRUE(
            at::equal(parameter.tensor, changed.model->parameters().Find(parameter.name)->tensor))
            << parameter.name;
      }
    }
  }
}

// Both paths compute the same with dropout, which falls on nothing but the change.
TEST_P(EveryFamily, PathsAgreeWithDropoutAndOnGradients) {
  const RunContext kernels{.training = true, .dropout = {.seed = 3, .step = 5}};
  RunContext reference = kernels;
  reference.reference = true;
  GradientsByName gradients[2];
  Tensor losses[2];
  for (const bool plain : {false, true}) {
    ModelFixture fixture(GetParam(), std::nullopt);
    ASSERT_TRUE(
        AddPart(PartOf("lora { rank: 4 alpha: 8 dropout: 0.3 }"), 7, fixture.model.get()).ok());
    for (const Parameter* parameter : TrainPart(*fixture.model)) {
      torch::NoGradGuard no_grad;
      // With B at 0, A would get no gradient.
      if (absl::EndsWith(parameter->name, "lora_B.weight")) {
        const Tensor waves = at::sin(at::arange(parameter->tensor.numel(), torch::kFloat32));
        parameter->tensor.copy_(waves.view(parameter->tensor.sizes()) * 0.05);
      }
    }
    losses[plain] = MeanLoss(*fixture.model, fixture.Batch(0), plain ? reference : kernels);
    losses[plain].backward();
    gradients[plain] = PartGradients(*fixture.model);
  }
  ExpectAgreement(losses, gradients);
}

TEST_P(EveryFamily, PathsAgreeOnScales) {
  GradientsByName gradients[2];
  Tensor losses[2];
  for (const bool plain : {false, true}) {
    ModelFixture fixture(GetParam(), std::nullopt);
    ASSERT_TRUE(AddPart(PartOf("ia3 { }"), 7, fixture.model.get()).ok());
    for (const Parameter* parameter : TrainPart(*fixture.model)) {
      torch::NoGradGuard no_grad;
      const Tensor waves = at::sin(at::arange(parameter->tensor.numel(), torch::kFloat32));
      parameter->tensor.add_(waves.view(parameter->tensor.sizes()) * 0.2);
    }
    losses[plain] = MeanLoss(*fixture.model, fixture.Batch(0), {.reference = plain});
    losses[plain].backward();
    gradients[plain] = PartGradients(*fixture.model);
  }
  ExpectAgreement(losses, gradients);
}

INSTANTIATE_TEST_SUITE_P(Families, EveryFamily, ::testing::ValuesIn(kFamilies),
                         [](const auto& info) { return FixtureTestName(info.param); });

TEST(AddPart, DropoutLeavesTheBaseAlone) {
  torch::NoGradGuard no_grad;
  ModelFixture base("llama", std::nullopt), changed("llama", std::nullopt);
  ASSERT_TRUE(
      AddPart(PartOf("lora { rank: 4 alpha: 8 dropout: 0.5 }"), 7, changed.model.get()).ok());
  const Packed packed = base.Batch(0).packed;
  const RunContext context{.training = true, .dropout = {.seed = 1}};
  // B is 0, so that whatever dropout does to the change shows in nothing.
  EXPECT_TRUE(
      at::equal(LogitsOf(*base.model, packed, context), LogitsOf(*changed.model, packed, context)));
}

TEST(AddPart, TheSeedDrawsTheSameAndEveryLayerItsOwn) {
  const auto draw = [](uint64_t seed) {
    ModelFixture fixture("llama", std::nullopt);
    EXPECT_TRUE(AddPart(PartOf("lora { rank: 4 alpha: 8 }"), seed, fixture.model.get()).ok());
    std::vector<Tensor> drawn;
    for (const LinearLayer& linear : fixture.model->linears()) {
      drawn.push_back(linear.added->down->tensor);
      const double bound = 1 / std::sqrt(static_cast<double>(linear.in()));
      EXPECT_LT(drawn.back().abs().max().item<double>(), bound);
      EXPECT_GT(drawn.back().abs().max().item<double>(), 0.8 * bound);
    }
    return drawn;
  };
  const auto first = draw(1), again = draw(1), other = draw(2);
  for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(at::equal(first[i], again[i]));
  EXPECT_FALSE(at::equal(first[0], other[0]));
  EXPECT_FALSE(at::equal(first[0], first[1]));  // the same shape
}

TEST(AddPart, PatternsBlocksAndExclusions) {
  ModelFixture fixture("llama", std::nullopt);
  ASSERT_TRUE(AddPart(PartOf(R"(lora {
                        rank: 4 alpha: 8
                        target_modules: "q_proj" target_modules: "mlp.up_proj"
                        exclude_modules: "layers.2.mlp.up_proj"
                        layers_to_transform: 1 layers_to_transform: 2
                        rank_pattern { key: "1\\.self_attn\\.q_proj" value: 2 }
                        alpha_pattern { key: "up_proj" value: 3 } })"),
                      7, fixture.model.get())
                  .ok());
  EXPECT_THAT(ChangedLayers(*fixture.model),
              ElementsAre("model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj",
                          "model.layers.2.self_attn.q_proj"));
  const auto added = [&](const std::string& name) {
    for (const LinearLayer& linear : fixture.model->linears()) {
      if (linear.name == name) return *linear.added;
    }
    return AddedToLinear();
  };
  EXPECT_EQ(added("model.layers.1.self_attn.q_proj").down->tensor.size(0), 2);
  EXPECT_EQ(added("model.layers.1.self_attn.q_proj").scale, 4);
  EXPECT_EQ(added("model.layers.1.mlp.up_proj").scale, 0.75);
  EXPECT_EQ(added("model.layers.2.self_attn.q_proj").down->tensor.size(0), 4);
  // In the groups of their blocks, so that selectors by block find them.
  const auto& block = fixture.model->groups()[2].parameters;
  EXPECT_NE(std::find(block.begin(), block.end(), "model.layers.1.mlp.up_proj.lora_A.weight"),
            block.end());
}

TEST(AddPart, AllLayersAreAllButTheHeads) {
  ModelFixture bert("bert-cls", std::nullopt);
  ASSERT_TRUE(AddPart(PartOf("lora { rank: 4 alpha: 8 }"), 7, bert.model.get()).ok());
  EXPECT_EQ(ChangedLayers(*bert.model).size(), 19u);  // six in each block, and the pooler
  EXPECT_TRUE(NamesWhere(*bert.model, &Parameter::beside_added).empty());
  // A new head trains with the part, and a pooler that was drawn with it is part of the head.
  ModelFixture fresh("bert", HeadSpec{.labels = {"a", "b"}, .seed = 1});
  ASSERT_TRUE(AddPart(PartOf("lora { rank: 4 alpha: 8 }"), 7, fresh.model.get()).ok());
  EXPECT_EQ(ChangedLayers(*fresh.model).size(), 18u);
  EXPECT_THAT(NamesWhere(*fresh.model, &Parameter::beside_added),
              ElementsAre("bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight",
                          "classifier.bias"));
}

TEST(AddPart, WhatTrainsBeside) {
  const auto beside = [](const char* fixture_name, const std::string& text) {
    ModelFixture fixture(fixture_name, std::nullopt);
    const absl::Status added = AddPart(PartOf(text), 7, fixture.model.get());
    EXPECT_TRUE(added.ok()) << added;
    return NamesWhere(*fixture.model, &Parameter::beside_added);
  };
  EXPECT_THAT(beside("gpt2", R"(lora { rank: 4 alpha: 8 target_modules: "c_attn" bias: TARGETS
                                       layers_to_transform: 0 })"),
              ElementsAre("transformer.h.0.attn.c_attn.bias"));
  EXPECT_EQ(beside("gpt2", R"(lora { rank: 4 alpha: 8 bias: ALL_BIASES })").size(), 3u * 6 + 1);
  EXPECT_THAT(
      beside("llama", R"(lora { rank: 4 alpha: 8 target_modules: "q_proj"
                                        modules_to_save: "lm_head" modules_to_save: "1.mlp" })"),
      ElementsAre("model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight",
                  "model.layers.1.mlp.down_proj.weight", "lm_head.weight"));
}

TEST(AddPart, RefusesWhatItCannotDoByName) {
  const auto refusal = [](const char* fixture_name, const std::string& text) {
    ModelFixture fixture(fixture_name, std::nullopt);
    const absl::Status added = AddPart(PartOf(text), 7, fixture.model.get());
    EXPECT_FALSE(added.ok()) << text;
    return std::string(added.message());
  };
  EXPECT_THAT(refusal("llama", R"(lora { rank: 4 alpha: 8 target_modules: "q_porj" })"),
              ::testing::AllOf(HasSubstr("q_porj"), HasSubstr("nearest are: q_proj")));
  EXPECT_THAT(refusal("llama", R"(lora { rank: 4 alpha: 8 target_modules: "embed_tokens" })"),
              HasSubstr("no linear layer"));
  EXPECT_THAT(refusal("llama", R"(lora { rank: 4 alpha: 8 target_modules: "lm_head" })"),
              HasSubstr("no linear layer"));
  EXPECT_THAT(refusal("llama", R"(lora { rank: 4 alpha: 8 target_pattern: "no_such" })"),
              HasSubstr("none of the model's"));
  EXPECT_THAT(refusal("llama", R"(lora { rank: 4 alpha: 8 layers_to_transform: 3 })"),
              HasSubstr("blocks 0 to 2"));
  EXPECT_THAT(refusal("llama", R"(lora { rank: 4 alpha: 8 target_modules: "q_proj"
                                         modules_to_save: "q_proj" })"),
              HasSubstr("names a target too"));
  EXPECT_THAT(refusal("llama", R"(lora { rank: 4 alpha: 8 modules_to_save: "lm_haed" })"),
              HasSubstr("nearest are: lm_head"));
  EXPECT_THAT(refusal("llama", R"(lora { rank: 4 alpha: 8
                                         rank_pattern { key: "q_proj" value: 2 }
                                         rank_pattern { key: ".*_proj" value: 3 } })"),
              HasSubstr("different values"));
}

TEST(AddPart, WhatIsKeptBesideIsWholeModulesThatThePartLeavesAlone) {
  ModelFixture fixture("llama", std::nullopt);
  Model* const model = fixture.model.get();
  ASSERT_TRUE(
      AddPart(PartOf(R"(lora { rank: 4 alpha: 8 target_modules: "q_proj" })"), 7, model).ok());
  const std::string changed = "model.layers.0.self_attn.q_proj.weight";
  const absl::Status refused = KeepBeside("phases[0].selector", {changed}, model);
  EXPECT_THAT(std::string(refused.message()),
              ::testing::AllOf(HasSubstr("phases[0].selector"), HasSubstr(changed),
                               HasSubstr("give output MERGED")));
  EXPECT_TRUE(KeepBeside("phases[0].selector",
                         {"model.layers.0.self_attn.q_proj.lora_A.weight",
                          "model.layers.1.mlp.up_proj.weight"},
                         model)
                  .ok());
  EXPECT_THAT(NamesWhere(*model, &Parameter::kept_beside),
              ElementsAre("model.layers.1.mlp.up_proj.weight"));
}

TEST(AddPart, ATiedOutputCannotBeNamedApart) {
  ModelVariant variant;
  variant.fixture = "gpt2";
  const auto words = SafetensorsFile::Open(FixtureDirectory("gpt2") + "/model.safetensors").value();
  for (const TensorInfo& info : words->tensors()) {
    if (absl::EndsWith(info.name, "wte.weight")) {
      variant.added["lm_head.weight"] = ViewTensor(words, info);
    }
  }
  const std::string directory = variant.Make();
  for (const char* text : {R"(lora { rank: 4 alpha: 8 target_modules: "lm_head" })",
                           R"(lora { rank: 4 alpha: 8 modules_to_save: "lm_head" })"}) {
    const auto model = LoadModel(directory, std::nullopt).value();
    EXPECT_THAT(std::string(AddPart(PartOf(text), 7, model.get()).message()),
                HasSubstr("\"lm_head\" is tied to transformer.wte.weight"));
  }
}

TEST(AddPart, Ia3ScalesInputsOfFeedForwardLayersAndOutputsOfOthers) {
  ModelFixture fixture("gpt2", std::nullopt);
  ASSERT_TRUE(AddPart(PartOf("ia3 { }"), 7, fixture.model.get()).ok());
  EXPECT_EQ(ChangedLayers(*fixture.model).size(), 6u);
  for (const LinearLayer& linear : fixture.model->linears()) {
    if (!linear.added) continue;
    const bool inner = absl::EndsWith(linear.name, "mlp.c_proj");
    EXPECT_EQ(linear.added->input_scale != nullptr, inner) << linear.name;
    EXPECT_EQ(linear.added->output_scale != nullptr, !inner) << linear.name;
  }
  const auto refusal = [](const char* name, const std::string& text) {
    ModelFixture other(name, std::nullopt);
    return std::string(AddPart(PartOf(text), 7, other.model.get()).message());
  };
  EXPECT_THAT(refusal("llama", R"(ia3 { target_modules: "k_porj" })"), HasSubstr("k_proj"));
  EXPECT_THAT(refusal("llama", R"(ia3 { target_modules: "k_proj"
                                        feedforward_modules: "down_proj" })"),
              HasSubstr("\"down_proj\" is none of the targets"));
}

// Gradients of the part alone: the base's weights get none, and below the lowest part there is no
// graph at all.
TEST(AddPart, OnlyThePartAndWhatLiesAboveItIsDifferentiated) {
  ModelFixture fixture("llama", std::nullopt);
  Model& model = *fixture.model;
  ASSERT_TRUE(AddPart(PartOf("lora { rank: 4 alpha: 8 layers_to_transform: 1 }"), 7, &model).ok());
  TrainPart(model);
  const FixtureBatch batch = fixture.Batch(0);
  Rows rows = model.Embed(batch.packed, {});
  EXPECT_FALSE(rows.data.requires_grad());
  rows = model.Block(0, rows, {});
  EXPECT_FALSE(rows.data.requires_grad());
  rows = model.Block(1, rows, {});
  EXPECT_TRUE(rows.data.requires_grad());
}

}  // namespace
}  // namespace thaw
