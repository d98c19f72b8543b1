// Loading, naming and saving.
#include "common/base/files.h"
#include "common/base/json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/model/model_fixture.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using torch::Tensor;

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

TEST(LoadModel, ListsGroupsAndParametersInOrder) {
  ModelFixture fixture("bert-cls", std::nullopt);
  std::vector<std::string> names;
  for (const Group& group : fixture.model->groups()) names.push_back(group.name);
  EXPECT_THAT(names, ElementsAre("embeddings", "block.0", "block.1", "block.2", "head"));
  EXPECT_THAT(fixture.model->groups().back().parameters,
              ElementsAre("bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight",
                          "classifier.bias"));
  size_t next = 0;
  for (size_t g = 0; g < fixture.model->groups().size(); ++g) {
    for (const std::string& name : fixture.model->groups()[g].parameters) {
      const Parameter& parameter = fixture.model->parameters().all()[next++];
      EXPECT_EQ(parameter.name, name);
      EXPECT_EQ(parameter.group, static_cast<int>(g));
    }
  }
  EXPECT_EQ(next, fixture.model->parameters().all().size());
  EXPECT_TRUE(fixture.model->warnings().empty());
}

TEST(LoadModel, TakesOldNamesAndIgnoresBuffers) {
  ModelVariant variant;
  variant.rename = [](std::string name) {
    name = Replaced(name, "LayerNorm.weight", "LayerNorm.gamma");
    return Replaced(name, "LayerNorm.bias", "LayerNorm.beta");
  };
  variant.added["bert.embeddings.position_ids"] = at::arange(40).unsqueeze(0);
  ModelFixture fixture("bert-cls", std::nullopt);
  const Packed batch = fixture.Batch(0).packed;
  auto model = LoadModel(variant.Make(), std::nullopt);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(at::equal(LogitsOf(**model, batch), LogitsOf(*fixture.model, batch)));
}

TEST(LoadModel, DrawsAFreshHeadFromItsSeedAlone) {
  ModelVariant variant;
  variant.fixture = "bert";
  const std::string directory = variant.Make();
  HeadSpec head{{"a", "b", "c", "d"}, ProblemType::kSingleLabel, 5};
  const auto weight = [&](const char* name) {
    auto model = LoadModel(directory, head);
    EXPECT_TRUE(model.ok()) << model.status();
    EXPECT_EQ((*model)->warnings().size(), 2u);  // no pooler; a masked-language head unused
    return (*model)->parameters().Find(name)->tensor;
  };
  const Tensor first = weight("classifier.weight"), pooler = weight("bert.pooler.dense.weight");
  EXPECT_EQ(first.sizes(), (std::vector<int64_t>{4, 48}));
  EXPECT_TRUE(at::equal(first, weight("classifier.weight")));
  EXPECT_EQ(weight("classifier.bias").abs().max().item<float>(), 0);
  // The fixture's initializer_range, within five standard errors.
  EXPECT_NEAR(pooler.std().item<double>(), 0.12, 5 * 0.12 / std::sqrt(2 * 48 * 48));
  EXPECT_NEAR(pooler.mean().item<double>(), 0, 5 * 0.12 / 48);
  head.seed = 6;
  EXPECT_FALSE(at::equal(first, weight("classifier.weight")));
}

TEST(LoadModel, KeepsAClassifierOfTheSameLabels) {
  ModelFixture recorded("bert-cls", std::nullopt);
  const Tensor kept = recorded.model->parameters().Find("classifier.weight")->tensor;
  const HeadSpec same{{"LABEL_0", "LABEL_1", "LABEL_2"}, ProblemType::kSingleLabel, 1};
  const HeadSpec other{{"x", "y", "z"}, ProblemType::kSingleLabel, 1};
  ModelFixture continued("bert-cls", same), fresh("bert-cls", other);
  EXPECT_TRUE(at::equal(continued.model->parameters().Find("classifier.weight")->tensor, kept));
  EXPECT_FALSE(at::equal(fresh.model->parameters().Find("classifier.weight")->tensor, kept));
  EXPECT_THAT(fresh.model->config().labels, ElementsAre("x", "y", "z"));
}

TEST(LoadModel, NamesWhatIsWrong) {
  const auto error = [](ModelVariant variant) {
    return LoadModel(variant.Make(), std::nullopt).status().ToString();
  };
  ModelVariant missing;
  missing.rename = [](std::string name) {
    return name == "bert.encoder.layer.1.output.dense.bias" ? "" : name;
  };
  EXPECT_THAT(error(missing), HasSubstr("bert.encoder.layer.1.output.dense.bias\" is missing"));
  ModelVariant shape;
  shape.config_changes = {{"intermediate_size", 91}};
  EXPECT_THAT(error(shape), HasSubstr("expected floating point [91, 48] by config.json, found F32 "
                                      "[90, 48]"));
  ModelVariant deeper;
  deeper.config_changes = {{"num_hidden_layers", 4}};
  EXPECT_THAT(error(deeper), HasSubstr("bert.encoder.layer.3.attention.self.query.weight"));
  ModelVariant twice;
  twice.rename = [](std::string name) {
    return Replaced(name, "bert.pooler.dense.weight", "embeddings.word_embeddings.weight");
  };
  EXPECT_THAT(error(twice), HasSubstr("both stand for"));
  ModelVariant headless;
  headless.fixture = "bert";
  headless.config_changes = {{"architectures", {"BertForSequenceClassification"}}};
  EXPECT_THAT(error(headless), HasSubstr("bert.pooler.dense.weight\" is missing"));
  ModelVariant shallower;
  shallower.config_changes = {{"num_hidden_layers", 2}};
  EXPECT_THAT(error(shallower),
              HasSubstr("with 2 layers by config.json has no place for 16 tensors"));
  ModelVariant integers;
  integers.type = torch::kInt64;
  EXPECT_THAT(error(integers), HasSubstr("found I64"));
  EXPECT_THAT(LoadModel(NewTestDirectory(), std::nullopt).status().ToString(),
              HasSubstr("config.json"));
}

TEST(LoadModel, RefusesHeadsThatAreNone) {
  for (const std::vector<std::string>& labels :
       {std::vector<std::string>{}, std::vector<std::string>{"a", "b", "a"}}) {
    const HeadSpec head{labels, ProblemType::kSingleLabel, 1};
    EXPECT_EQ(LoadModel(FixtureDirectory("bert"), head).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(LoadModel, IdsBeyondItsTablesAreRefused) {
  ModelFixture fixture("bert-cls", std::nullopt);
  for (int64_t bad : {-1, 197, 1 << 30}) {
    FixtureBatch batch = fixture.Batch(0);
    batch.packed.token_ids[3] = bad;
    EXPECT_THROW(LogitsOf(*fixture.model, batch.packed), c10::IndexError) << bad;
    batch = fixture.Batch(0);
    batch.packed.token_type_ids[0] = bad;
    EXPECT_THROW(LogitsOf(*fixture.model, batch.packed), c10::IndexError) << bad;
  }
  Packed long_sequence;
  long_sequence.token_ids = at::ones({41}, torch::kInt64);
  long_sequence.cu_seqlens = {0, 41};
  EXPECT_THROW(LogitsOf(*fixture.model, long_sequence), c10::IndexError);
}

TEST(LoadModel, ReplacementsAreSeenAndWrongOnesRefused) {
  ModelFixture fixture("bert-cls", std::nullopt);
  Parameters& parameters = fixture.model->parameters();
  const Packed batch = fixture.Batch(0).packed;
  const Tensor before = LogitsOf(*fixture.model, batch);
  const Tensor bias = parameters.Find("classifier.bias")->tensor;
  ASSERT_TRUE(parameters.SetTensor("classifier.bias", bias + 1).ok());
  EXPECT_LT(MaxDifference(LogitsOf(*fixture.model, batch), before + 1), 1e-6);
  EXPECT_EQ(parameters.SetTensor("classifier.bias", at::zeros({4})).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(parameters.SetTensor("classifier.bias", bias.to(torch::kFloat64)).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(parameters.SetTensor("classifier", bias).code(), absl::StatusCode::kNotFound);
}

TEST(SaveModel, WritesWhatItReadAndTheNewHead) {
  ModelVariant variant;
  variant.fixture = "bert";
  const HeadSpec head{{"bad", "good"}, ProblemType::kSingleLabel, 3};
  auto model = LoadModel(variant.Make(), head);
  ASSERT_TRUE(model.ok()) << model.status();
  const std::string directory = NewTestDirectory();
  ASSERT_TRUE(SaveModel(**model, directory).ok());

  auto again = LoadModel(directory, std::nullopt);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_THAT((*again)->config().labels, ElementsAre("bad", "good"));
  ModelFixture fixture("bert", head);
  const Packed batch = fixture.Batch(0).packed;
  EXPECT_TRUE(at::equal(LogitsOf(**model, batch), LogitsOf(**again, batch)));
  for (const Parameter& parameter : (*model)->parameters().all()) {
    EXPECT_TRUE(at::equal(parameter.tensor, (*again)->parameters().Find(parameter.name)->tensor))
        << parameter.name;
  }

  const auto config = ReadJsonFile(directory + "/config.json").value();
  EXPECT_EQ(config["architectures"], nlohmann::json({"BertForSequenceClassification"}));
  EXPECT_EQ(config["id2label"], nlohmann::json({{"0", "bad"}, {"1", "good"}}));
  EXPECT_EQ(config["label2id"], nlohmann::json({{"bad", 0}, {"good", 1}}));
  EXPECT_EQ(config["transformers_version"], "5.23.0");
}

}  // namespace
}  // namespace thaw
