// Options that the recorded models do not have: their config.json changed (in transformers' newer
// and older spellings) and recorded again, over the first two sequences of batch 0, each alone.
#include <unistd.h>

#include "common/base/files.h"
#include "common/base/json.h"
#include "gtest/gtest.h"
#include "tests/worker/model/model_fixture.h"

namespace thaw {
namespace {

using nlohmann::json;
using torch::Tensor;

std::string VariantsDirectory() { return FixtureDirectory("variants"); }

constexpr const char* kVariantNames[] = {
    "rope-dynamic",       "rope-linear",      "rope-llama3",       "rope-default-theta",
    "rope-yarn-options",  "rope-yarn-mscale", "rope-yarn-lengths", "rope-yarn-no-original",
    "llama-gelu",         "mistral-full",     "mistral-narrow",    "qwen2-upper",
    "qwen2-switched-off", "qwen3-layers",     "t5-gelu",           "t5-unscaled",
    "t5-scaled",          "t5-gated-silu",    "t5-encoder",
};

Packed FirstTwoSequences(const std::string& fixture) {
  Packed batch = ModelFixture(fixture, std::nullopt).Batch(0).packed;
  batch.cu_seqlens.resize(3);
  batch.token_ids = batch.token_ids.slice(0, 0, batch.cu_seqlens[2]);
  if (batch.target_ids.defined()) {
    batch.target_bounds.resize(3);
    batch.target_ids = batch.target_ids.slice(0, 0, batch.target_bounds[2]);
  }
  return batch;
}

std::unique_ptr<Model> LoadSpelling(const std::string& fixture, const json& spelling) {
  const std::string directory = NewTestDirectory(), source = FixtureDirectory(fixture);
  json config = ReadJsonFile(source + "/config.json").value();
  for (const json& field : spelling["without"]) config.erase(field.get<std::string>());
  config.update(spelling["set"]);
  EXPECT_TRUE(WriteFileAtomically(directory + "/config.json", config.dump()).ok());
  const std::string weights = "/model.safetensors";
  EXPECT_EQ(symlink((source + weights).c_str(), (directory + weights).c_str()), 0);
  auto model = LoadModel(directory, std::nullopt);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

TEST(VariantNames, AreThoseThatAreRecorded) {
  const json cases = ReadJsonFile(VariantsDirectory() + "/cases.json").value();
  ASSERT_EQ(cases.size(), std::size(kVariantNames));
  for (size_t i = 0; i < cases.size(); ++i) EXPECT_EQ(cases[i]["name"], kVariantNames[i]);
}

class Variants : public ::testing::TestWithParam<const char*> {};

TEST_P(Variants, AreTransformersInEverySpelling) {
  const json cases = ReadJsonFile(VariantsDirectory() + "/cases.json").value();
  const auto file =
      SafetensorsFile::Open(VariantsDirectory() + "/" + std::string(GetParam()) + ".safetensors")
          .value();
  const Tensor expected = ViewTensor(file, *file->Find("rows"));
  const torch::NoGradGuard no_grad;
  for (const json& variant : cases) {
    if (variant["name"] != std::string(GetParam())) continue;
    const std::string fixture = variant["fixture"];
    const Packed batch = FirstTwoSequences(fixture);
    // Values in the tens have fewer digits left.
    const double tolerance = expected.abs().max().item<double>() > 10 ? 1e-4 : 2e-5;
    for (const json& spelling : variant["spellings"]) {
      const std::unique_ptr<Model> model = LoadSpelling(fixture, spelling);
      const RunContext context{.all_rows = true};
      const Tensor found = variant["rows"] == "logits"
                               ? LogitsOf(*model, batch, context)
                               : model->Hidden(RowsOf(*model, batch, context), context);
      const double worst = MaxDifference(found, expected);
      std::printf("[ FIGURE   ] %s: %s differ by at most %.2e\n", GetParam(),
                  variant["rows"].get<std::string>().c_str(), worst);
      EXPECT_LT(worst, tolerance) << spelling;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Recorded, Variants, ::testing::ValuesIn(kVariantNames),
                         [](const ::testing::TestParamInfo<const char*>& info) {
                           return FixtureTestName(info.param);
                         });

// As many key and value heads as query heads, where the file does not say: each group of query
// heads reads copies of one.
TEST(GroupedHeads, CopiesOfAHeadAreTheSameModel) {
  ModelFixture fixture("llama", std::nullopt);
  ModelVariant variant{.fixture = "llama"};
  variant.config_changes = {{"num_key_value_heads", nullptr}, {"head_dim", nullptr}};
  for (const Parameter& parameter : fixture.model->parameters().all()) {
    if (parameter.name.find("k_proj") == std::string::npos &&
        parameter.name.find("v_proj") == std::string::npos) {
      continue;
    }
    const Tensor heads = parameter.tensor.unflatten(0, {2, 8});
    variant.added[parameter.name] = heads.repeat_interleave(3, 0).flatten(0, 1);
  }
  variant.rename = [&](std::string name) { return variant.added.count(name) > 0 ? "" : name; };
  auto copies = LoadModel(variant.Make(), std::nullopt);
  ASSERT_TRUE(copies.ok()) << copies.status();
  const Packed batch = fixture.Batch(0).packed;
  EXPECT_LT(MaxDifference(LogitsOf(**copies, batch), LogitsOf(*fixture.model, batch)), 1e-5);
}

TEST(SharedEmbeddings, CopiesAreKeptAndOthersRefused) {
  ModelFixture fixture("t5", std::nullopt);
  const Tensor& shared = fixture.model->parameters().Find("shared.weight")->tensor;
  ModelVariant variant{.fixture = "t5"};
  variant.added = {{"encoder.embed_tokens.weight", shared.clone()},
                   {"decoder.embed_tokens.weight", shared.clone()}};
  const auto model = LoadModel(variant.Make(), std::nullopt);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->parameters().Find("shared.weight")->aliases.size(), 2u);
  variant.added["decoder.embed_tokens.weight"] = shared * 2;
  const absl::Status status = LoadModel(variant.Make(), std::nullopt).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.ToString().find("decoder.embed_tokens.weight"), std::string::npos) << status;
}

TEST(T5Heads, AreTheLanguageModelsOrNone) {
  const std::string directory = FixtureDirectory("t5-v1.1");
  HeadSpec head;
  head.labels = {"a", "b"};
  EXPECT_NE(LoadModel(directory, head).status().ToString().find("\"t5\" has no classifier"),
            std::string::npos);
  // Without a head there is nothing for a decoder to do.
  const auto encoder = LoadModel(directory, HeadSpec{.kind = HeadKind::kNone});
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  EXPECT_FALSE((*encoder)->config().encoder_decoder);
  EXPECT_EQ((*encoder)->blocks(), 3);
  EXPECT_EQ((*encoder)->first_decoder_block(), 0);

  ModelVariant variant{.fixture = "t5-v1.1"};
  variant.config_changes = {{"architectures", {"T5EncoderModel"}}};
  const HeadSpec language_model{.kind = HeadKind::kLanguageModel};
  EXPECT_NE(LoadModel(variant.Make(), language_model).status().ToString().find("no decoder"),
            std::string::npos);
}

TEST(LlamaFiles, BuffersOfOldOnesAreIgnored) {
  ModelVariant variant{.fixture = "llama"};
  variant.added["model.layers.0.self_attn.rotary_emb.inv_freq"] = at::ones({4});
  EXPECT_TRUE(LoadModel(variant.Make(), std::nullopt).ok());
}

// transformers takes config.json at its word and would draw the layer of a result anew.
TEST(DecoderFiles, AMissingOutputLayerIsTiedAndSaidSoAndSaved) {
  for (const char* fixture : {"llama", "gpt2", "bloom-5heads", "t5"}) {
    ModelVariant variant{.fixture = fixture};
    variant.rename = [](std::string name) { return name == "lm_head.weight" ? "" : name; };
    variant.config_changes = {{"tie_word_embeddings", false}};
    const auto model = LoadModel(variant.Make(), std::nullopt);
    ASSERT_TRUE(model.ok()) << model.status();
    ASSERT_EQ((*model)->warnings().size(), 1u) << fixture;
    EXPECT_NE((*model)->warnings()[0].find("lm_head"), std::string::npos) << fixture;
    const std::string saved = NewTestDirectory();
    ASSERT_TRUE(SaveModel(**model, saved).ok());
    const auto file = SafetensorsFile::Open(saved + "/model.safetensors").value();
    EXPECT_NE(file->Find("lm_head.weight"), nullptr) << fixture;
    EXPECT_TRUE(LoadModel(saved, std::nullopt).value()->warnings().empty()) << fixture;
  }
}

}  // namespace
}  // namespace thaw
