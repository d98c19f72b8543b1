// Prompts, prefixes and bottlenecks: where they stand, what they leave alone, that both paths and
// sequences that go on piece by piece agree about them.
#include <algorithm>
#include <cmath>
#include <deque>
#include <map>

#include "absl/strings/match.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/tuning/adapter_fixture.h"
#include "worker/model/fresh_tensor.h"
#include "worker/tuning/added_part.h"
#include "worker/tuning/peft_files.h"
#include "worker/tuning/virtual_tokens.h"

namespace thaw {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using torch::Tensor;

constexpr const char* kBottlenecks[] = {
    "bottleneck { place: PFEIFFER reduction: 4 scale: 1 }",
    "bottleneck { place: HOULSBY reduction: 8 scale: 0.5 }",
    "bottleneck { place: PARALLEL reduction: 1024 scale: 4 }",
};
constexpr const char* kVirtualParts[] = {
    "prompt_tuning { virtual_tokens: 3 random: true }",
    "prompt_tuning { virtual_tokens: 3 }",
    "prefix_tuning { virtual_tokens: 3 }",
};

bool CanHave(const Model& model, const std::string& text) {
  return !PartOf(text).has_prefix_tuning() || model.PrefixShape().heads > 0;
}

bool ReadBySome(const Model& model, const Parameter& parameter) {
  if (!absl::StartsWith(parameter.name, kPrefixName)) return true;
  const auto& blocks = model.added().blocks;
  return std::any_of(blocks.begin(), blocks.end(),
                     [&](const AddedToBlock& block) { return block.prefix == &parameter; });
}

// Every added tensor becomes what no fresh part has.
void DrawAnew(Model* model) {
  uint64_t stream = 0;
  for (const Parameter& parameter : model->parameters().all()) {
    if (!parameter.added()) continue;
    const Tensor drawn = NormalTensor(parameter.tensor.sizes().vec(), 0.3, 11, stream++);
    ASSERT_TRUE(model->parameters().SetTensor(parameter.name, drawn).ok());
  }
}

class PlacedPart : public ::testing::TestWithParam<const char*> {};

TEST_P(PlacedPart, AFreshBottleneckLeavesEveryBitAsItWas) {
  torch::NoGradGuard no_grad;
  for (const char* text : kBottlenecks) {
    for (const bool reference : {false, true}) {
      ModelFixture base(GetParam(), std::nullopt, /*half=*/true);
      ModelFixture changed(GetParam(), std::nullopt, /*half=*/true);
      ASSERT_TRUE(AddPart(PartOf(text), 7, changed.model.get()).ok()) << text;
      const Packed packed = base.Batch(0).packed;
      const RunContext context{.training = true, .dropout = {.seed = 1}, .reference = reference};
      EXPECT_TRUE(at::equal(LogitsOf(*base.model, packed, context),
                            LogitsOf(*changed.model, packed, context)))
          << text << " in bf16";
    }
    ModelFixture base(GetParam(), std::nullopt), changed(GetParam(), std::nullopt);
    ASSERT_TRUE(AddPart(PartOf(text), 7, changed.model.get()).ok()) << text;
    const Packed packed = base.Batch(0).packed;
    for (const bool reference : {false, true}) {
      const RunContext context{.training = true, .dropout = {.seed = 1}, .reference = reference};
      EXPECT_TRUE(at::equal(LogitsOf(*base.model, packed, context),
                            LogitsOf(*changed.model, packed, context)))
          << text;
    }
    DrawAnew(changed.model.get());
    EXPECT_GT(MaxDifference(LogitsOf(*base.model, packed), LogitsOf(*changed.model, packed)), 1e-3);
    EXPECT_EQ(MergePart(changed.model.get()).code(), absl::StatusCode::kFailedPrecondition);
  }
}

TEST_P(PlacedPart, KernelsAndReferenceAgreeAndTheBaseGetsNoGradient) {
  for (const auto* kinds : {&kBottlenecks, &kVirtualParts}) {
    for (const char* text : *kinds) {
      std::map<std::string, Tensor> gradients[2];
      double losses[2];
      for (const bool reference : {false, true}) {
        ModelFixture fixture(GetParam(), std::nullopt);
        if (!CanHave(*fixture.model, text)) continue;
        ASSERT_TRUE(AddPart(PartOf(text), 7, fixture.model.get()).ok()) << text;
        DrawAnew(fixture.model.get());
        TrainPart(*fixture.model);
        const RunContext context{.training = true, .dropout = {.seed = 3}, .reference = reference};
        const Tensor loss = MeanLoss(*fixture.model, fixture.Batch(0), context);
        loss.backward();
        losses[reference] = loss.item<double>();
        for (const Parameter& parameter : fixture.model->parameters().all()) {
          if (parameter.beside_added) continue;
          // Some of a prefix nobody reads (PrefixOfLayer).
          const bool has = parameter.tensor.grad().defined();
          EXPECT_EQ(has, parameter.added() && ReadBySome(*fixture.model, parameter))
              << parameter.name;
          if (has) gradients[reference][parameter.name] = parameter.tensor.grad();
        }
      }
      if (gradients[0].empty()) continue;
      EXPECT_NEAR(losses[0], losses[1], 1e-4 * std::abs(losses[1])) << text;
      for (const auto& [name, gradient] : gradients[0]) {
        EXPECT_LT(MaxDifference(gradient, gradients[1].at(name)),
                  1e-3 * gradient.abs().max().item<double>() + 1e-6)
            << text << " " << name;
      }
    }
  }
}

TEST_P(PlacedPart, WhatIsSavedLoadsAgainWithTheSameBits) {
  torch::NoGradGuard no_grad;
  for (const auto* kinds : {&kBottlenecks, &kVirtualParts}) {
    for (const char* text : *kinds) {
      ModelFixture first(GetParam(), std::nullopt), second(GetParam(), std::nullopt);
      if (!CanHave(*first.model, text)) continue;
      const v1::AddedPart part = PartOf(text);
      ASSERT_TRUE(AddPart(part, 7, first.model.get()).ok());
      DrawAnew(first.model.get());
      const std::string directory = NewTestDirectory();
      ASSERT_TRUE(SaveAdapter(*first.model, part, "base", directory).ok());
      const auto again = LoadAdapter(directory, second.model.get());
      ASSERT_TRUE(again.ok()) << again.status();
      EXPECT_EQ(again->kind_case(), part.kind_case());
      const Packed packed = first.Batch(0).packed;
      EXPECT_TRUE(at::equal(LogitsOf(*first.model, packed), LogitsOf(*second.model, packed)))
          << text;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, PlacedPart,
                         ::testing::Values("bert-cls", "bert", "roberta-cls", "distilbert-cls",
                                           "gpt2", "gpt2-cls", "bloom-4heads", "llama", "llama-cls",
                                           "qwen2-window", "t5", "t5-v1.1"),
                         [](const auto& info) { return FixtureTestName(info.param); });

class PlacedPartState : public ::testing::TestWithParam<const char*> {};

// Read whole, and a token at a time after the first two.
TEST_P(PlacedPartState, SequencesGoOnAsTheyDoAsAWhole) {
  torch::NoGradGuard no_grad;
  for (const char* text : kVirtualParts) {
    for (const bool reference : {false, true}) {
      ModelFixture fixture(GetParam(), std::nullopt);
      Model& model = *fixture.model;
      ASSERT_TRUE(AddPart(PartOf(text), 7, &model).ok());
      DrawAnew(&model);
      const Packed batch = fixture.Batch(0).packed;
      const bool encodes = model.config().encoder_decoder;
      const auto& bounds = encodes ? batch.target_bounds : batch.cu_seqlens;
      const Tensor& ids = encodes ? batch.target_ids : batch.token_ids;
      const int64_t sequences = static_cast<int64_t>(bounds.size()) - 1;
      const Tensor whole = LogitsOf(model, batch, {.reference = reference});
      SequenceState state(model.blocks(), sequences);
      const RunContext context{.reference = reference, .state = &state};
      int32_t length = bounds[1] - bounds[0];
      for (size_t s = 0; s + 1 < bounds.size(); ++s) {
        length = std::min(length, bounds[s + 1] - bounds[s]);
      }
      double worst = 0;
      for (int32_t at = 0, count = 2; at + count <= length; at += count, count = 1) {
        Packed piece;
        std::vector<Tensor> parts;
        std::vector<int32_t> piece_bounds = {0};
        for (int64_t s = 0; s < sequences; ++s) {
          parts.push_back(ids.slice(0, bounds[s] + at, bounds[s] + at + count));
          piece_bounds.push_back(piece_bounds.back() + count);
        }
        (encodes ? piece.target_ids : piece.token_ids) = at::cat(parts);
        (encodes ? piece.target_bounds : piece.cu_seqlens) = piece_bounds;
        if (encodes && at == 0) {
          piece.token_ids = batch.token_ids;
          piece.cu_seqlens = batch.cu_seqlens;
        }
        Rows rows = model.Embed(piece, context);
        for (int i = at == 0 ? 0 : model.first_decoder_block(); i < model.blocks(); ++i) {
          rows = model.Block(i, rows, context);
        }
        const Rows own = model.WithoutPrompt(rows, context);
        EXPECT_EQ(own.cu_seqlens, piece_bounds);
        state.Advance(rows.cu_seqlens);
        const OutputLayer output = model.output_layer();
        const Tensor logits =
            at::linear(model.OutputStates(own, Tensor(), context), output.weight, output.bias);
        for (int64_t s = 0; s < sequences; ++s) {
          worst = std::max(worst,
                           MaxDifference(logits.slice(0, s * count, (s + 1) * count),
                                         whole.slice(0, bounds[s] + at, bounds[s] + at + count)));
        }
      }
      EXPECT_LT(worst, encodes ? 1e-3 : 5e-5) << text << " " << reference;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, PlacedPartState,
                         ::testing::Values("gpt2", "bloom-4heads", "llama", "llama-rope-yarn",
                                           "qwen2-window", "t5", "t5-v1.1"),
                         [](const auto& info) { return FixtureTestName(info.param); });

TEST(PlacedParts, ABottleneckIsItsFormula) {
  Bottleneck bottleneck;
  std::deque<Parameter> parameters;
  const auto add = [&](std::vector<int64_t> shape) {
    parameters.emplace_back();
    parameters.back().tensor =
        NormalTensor(shape, 0.5, 3, parameters.size()).set_requires_grad(true);
    return &parameters.back();
  };
  bottleneck.down = add({5, 24});
  bottleneck.down_bias = add({5});
  bottleneck.up = add({24, 5});
  bottleneck.up_bias = add({24});
  bottleneck.scale = 1.7;
  const Tensor x = NormalTensor({7, 24}, 1, 3, 90).set_requires_grad(true);
  const Tensor bias = NormalTensor({24}, 1, 3, 91), weights = NormalTensor({7, 24}, 1, 3, 92);
  for (const auto activation : {ActivationKind::kRelu, ActivationKind::kSilu}) {
    bottleneck.activation = activation;
    const auto formula = [&] {
      const Tensor inner =
          at::matmul(x + bias, bottleneck.down->tensor.t()) + bottleneck.down_bias->tensor;
      const Tensor active =
          activation == ActivationKind::kRelu ? inner.clamp_min(0) : inner * at::sigmoid(inner);
      return x + (at::matmul(active, bottleneck.up->tensor.t()) + bottleneck.up_bias->tensor) * 1.7;
    };
    std::vector<Tensor> gradients[2];
    Tensor results[2] = {WithBottleneck(Path::kKernels, bottleneck, x, bias), formula()};
    EXPECT_LT(MaxDifference(results[0], results[1]), 1e-5);
    for (int i = 0; i < 2; ++i) {
      (results[i] * weights).sum().backward();
      for (const Parameter& parameter : parameters) {
        gradients[i].push_back(parameter.tensor.grad().clone());
        parameter.tensor.mutable_grad().reset();
      }
      gradients[i].push_back(x.grad().clone());
      x.mutable_grad().reset();
    }
    for (size_t i = 0; i < gradients[0].size(); ++i) {
      EXPECT_LT(MaxDifference(gradients[0][i], gradients[1][i]), 1e-4) << i;
    }
  }
}

TEST(PlacedParts, APromptBeginsWithWordsOfTheTextOrOfTheSeed) {
  ModelFixture fixture("llama", std::nullopt), drawn("llama", std::nullopt),
      again("llama", std::nullopt);
  const Tensor words = fixture.model->parameters().Find("model.embed_tokens.weight")->tensor;
  const auto part = PartOf("prompt_tuning { virtual_tokens: 5 initial_text: \"a\" }");
  const std::vector<int32_t> ids = {9, 4};
  ASSERT_TRUE(AddPart(part, 7, fixture.model.get(), ids).ok());
  const Tensor& prompt = fixture.model->added().prompt->tensor;
  for (int64_t r = 0; r < 5; ++r) EXPECT_TRUE(at::equal(prompt[r], words[ids[r % 2]])) << r;
  ASSERT_TRUE(AddPart(part, 7, drawn.model.get()).ok());
  ASSERT_TRUE(AddPart(part, 7, again.model.get()).ok());
  const Tensor& first = drawn.model->added().prompt->tensor;
  EXPECT_TRUE(at::equal(first, again.model->added().prompt->tensor));
  EXPECT_FALSE(at::equal(first[0], first[1]));
  for (int64_t r = 0; r < 5; ++r) {
    EXPECT_GE((words == first[r]).all(1).sum().item<int64_t>(), 1) << "is a word's row: " << r;
  }
}

TEST(PlacedParts, VirtualTokensTakePositions) {
  for (const char* text : kVirtualParts) {
    ModelFixture fixture("gpt2", std::nullopt);
    const int64_t before = fixture.model->max_positions();
    ASSERT_TRUE(AddPart(PartOf(text), 7, fixture.model.get()).ok());
    EXPECT_EQ(fixture.model->max_positions(), before - 3);
  }
}

TEST(PlacedParts, RefusesWhatItCannotDoByName) {
  const auto refusal = [](const char* fixture_name, const std::string& text) {
    ModelFixture fixture(fixture_name, std::nullopt);
    const absl::Status added = AddPart(PartOf(text), 7, fixture.model.get());
    EXPECT_FALSE(added.ok()) << fixture_name << " " << text;
    return std::string(added.message());
  };
  EXPECT_THAT(refusal("distilbert-cls", "prefix_tuning { virtual_tokens: 3 }"),
              AllOf(HasSubstr("added_part.prefix_tuning"), HasSubstr("distilbert takes no keys")));
  EXPECT_THAT(refusal("gpt2", "prefix_tuning { virtual_tokens: 100000 }"),
              AllOf(HasSubstr("added_part.prefix_tuning.virtual_tokens"), HasSubstr("positions")));
  EXPECT_THAT(refusal("gpt2", "prompt_tuning { virtual_tokens: 100000 }"),
              AllOf(HasSubstr("added_part.prompt_tuning.virtual_tokens"), HasSubstr("positions")));
  EXPECT_THAT(refusal("llama", R"(prompt_tuning { virtual_tokens: 3 modules_to_save: "nrom" })"),
              HasSubstr("added_part.prompt_tuning.modules_to_save[0]"));
  EXPECT_THAT(refusal("llama", "bottleneck { place: PFEIFFER }"), HasSubstr("reduction"));
}

TEST(PlacedParts, OwnConfigurationsAreReadStrictly) {
  ModelFixture fixture("llama", std::nullopt);
  const v1::AddedPart part = PartOf(kBottlenecks[1]);
  ASSERT_TRUE(AddPart(part, 7, fixture.model.get()).ok());
  const std::string directory = NewTestDirectory(), path = directory + "/adapter_config.json";
  ASSERT_TRUE(SaveAdapter(*fixture.model, part, "base", directory).ok());
  const nlohmann::json config = ReadJsonFile(path).value();
  EXPECT_EQ(ReadAdapterPart(directory).value().bottleneck().SerializeAsString(),
            part.bottleneck().SerializeAsString());
  EXPECT_FALSE(config.contains("peft_type"));
  const struct {
    nlohmann::json change;
    const char* says;
  } cases[] = {
      {{{"thaw_format", 2}}, "thaw_format"},
      {{{"kind", "prompt"}}, "\"prompt\" is not supported"},
      {{{"place", "BEHIND"}}, "\"BEHIND\" is not HOULSBY, PFEIFFER or PARALLEL"},
      {{{"reduction", 0}}, "reduction"},
      {{{"scale", -1}}, "scale"},
      {{{"modules_to_save", {1}}}, "modules_to_save"},
      {{{"of_the_future", 3}}, "of_the_future"},
  };
  for (const auto& [change, says] : cases) {
    nlohmann::json changed = config;
    changed.update(change);
    ASSERT_TRUE(WriteFileAtomically(path, changed.dump()).ok());
    EXPECT_THAT(std::string(ReadAdapterPart(directory).status().message()), HasSubstr(says))
        << change;
  }
}

}  // namespace
}  // namespace thaw
