// What a parameter is, of every family.
#include <gtest/gtest.h>

#include <regex>
#include <set>

#include "common/base/files.h"
#include "tests/worker/model/model_fixture.h"

namespace thaw {
namespace {

using Kind = ParameterKind;

// By the names that the families use, the first that fits: what their code must come to as well.
Kind KindByName(const std::string& name) {
  static const auto* rules = new std::vector<std::pair<std::regex, Kind>>{
      {std::regex(
           R"((LayerNorm|layer_?norm|ln_[12f]|_norm|(^|\.)norm|1\.layers\.\d\.0)\.(weight|bias)$)"),
       Kind::kNorm},
      {std::regex(
           R"((\w+_embeddings|wte|wpe|embed_tokens|word_embeddings|shared|^0\.(module\.)?encoder)\.weight$)"),
       Kind::kEmbedding},
      {std::regex(R"(attention\.(self\.(query|key|value)|output\.dense|[qkv]_lin|out_lin)\.)"),
       Kind::kAttention},
      {std::regex(R"(\.attn\.c_|self_attn\.[qkvo]_proj|SelfAttention|EncDecAttention)"),
       Kind::kAttention},
      {std::regex(R"(self_attention\.(query_key_value|dense)\.)"), Kind::kAttention},
      {std::regex(
           R"(layer\.\d+\.(intermediate|output)\.dense|ffn\.lin|\.mlp\.|DenseReluDense|\.rnns?\.)"),
       Kind::kFeedForward},
      {std::regex(R"(\brnns\.)"), Kind::kFeedForward}};
  for (const auto& [rule, kind] : *rules) {
    if (std::regex_search(name, rule)) return kind;
  }
  return Kind::kOther;
}

bool IsBiasByName(const std::string& name) {
  static const auto* rule = new std::regex(R"((\.|^)bias(_ih_l0|_hh_l0)?$)");
  return std::regex_search(name, *rule);
}

void ExpectKinds(const Model& model, const std::string& what) {
  std::set<Kind> kinds;
  for (const Group& group : model.groups()) {
    for (const std::string& name : group.parameters) {
      const Parameter* parameter = model.parameters().Find(name);
      EXPECT_EQ(static_cast<int>(parameter->kind), static_cast<int>(KindByName(name)))
          << what << ": " << name;
      EXPECT_EQ(parameter->bias, IsBiasByName(name)) << what << ": " << name;
      kinds.insert(parameter->kind);
    }
  }
  EXPECT_TRUE(kinds.count(Kind::kEmbedding)) << what;
  EXPECT_TRUE(kinds.count(Kind::kFeedForward)) << what;
}

TEST(Kinds, EveryFamilyKnowsWhatItsParametersAre) {
  for (const char* name :
       {"bert", "bert-cls", "roberta", "roberta-cls", "distilbert", "distilbert-cls", "gpt2",
        "gpt2-cls", "llama", "llama-cls", "llama-tied-bias", "mistral", "qwen2", "qwen3",
        "bloom-4heads", "t5", "t5-v1.1"}) {
    const auto model = LoadModel(FixtureDirectory(name), std::nullopt);
    ASSERT_TRUE(model.ok()) << name << ": " << model.status();
    ExpectKinds(**model, name);
  }
}

TEST(Kinds, FreshHeadsToo) {
  HeadSpec classifier;
  classifier.labels = {"a", "b", "c", "d", "e"};
  HeadSpec language_model;
  language_model.kind = HeadKind::kLanguageModel;
  for (const char* name : {"bert", "roberta", "distilbert", "gpt2", "llama", "bloom-4heads"}) {
    ExpectKinds(**LoadModel(FixtureDirectory(name), classifier), name);
    ExpectKinds(**LoadModel(FixtureDirectory(name), language_model), name);
  }
}

TEST(Kinds, AwdLstmWithWeightsAndWithout) {
  HeadSpec classifier;
  classifier.labels = {"a", "b", "c", "d", "e"};
  HeadSpec language_model;
  language_model.kind = HeadKind::kLanguageModel;
  const std::string drawn = NewTestDirectory();
  ASSERT_TRUE(WriteFileAtomically(drawn + "/config.json",
                                  R"({"model_type": "awd_lstm", "vocab_size": 20, "hidden_size": 6,
                                      "lstm_size": 8, "num_hidden_layers": 2})")
                  .ok());
  const std::string recorded = NewTestDirectory();
  ASSERT_TRUE(WriteFileAtomically(recorded + "/config.json",
                                  R"({"model_type": "awd_lstm", "vocab_size": 197,
                                      "hidden_size": 28, "lstm_size": 44, "num_hidden_layers": 3})")
                  .ok());
  ASSERT_TRUE(WriteFileAtomically(recorded + "/model.safetensors",
                                  *ReadFile(FixtureDirectory("awd-lstm") + "/lm.safetensors"))
                  .ok());
  for (const HeadSpec& head : {classifier, language_model}) {
    for (const std::string& directory : {drawn, recorded}) {
      const auto model = LoadModel(directory, head);
      ASSERT_TRUE(model.ok()) << model.status();
      ExpectKinds(**model, directory == drawn ? "drawn" : "recorded");
    }
  }
}

// What is easily taken for something else.
TEST(Kinds, OfSomeByName) {
  const auto bert = *LoadModel(FixtureDirectory("bert-cls"), std::nullopt);
  EXPECT_EQ(bert->parameters().Find("bert.pooler.dense.bias")->kind, Kind::kOther);
  EXPECT_TRUE(bert->parameters().Find("bert.pooler.dense.bias")->bias);
  EXPECT_EQ(bert->parameters().Find("bert.embeddings.LayerNorm.weight")->kind, Kind::kNorm);
  const auto t5 = *LoadModel(FixtureDirectory("t5"), std::nullopt);
  const Parameter* relative =
      t5->parameters().Find("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
  ASSERT_NE(relative, nullptr);
  EXPECT_EQ(relative->kind, Kind::kAttention);
  EXPECT_FALSE(relative->bias) << "a table, whatever it is called";
  EXPECT_FALSE(relative->decays) << "transformers, which goes by names, leaves it alone";
  EXPECT_TRUE(t5->parameters().Find("shared.weight")->decays);
  // A tied output layer is the table, though it freezes with the head.
  const auto gpt2 = *LoadModel(FixtureDirectory("gpt2"), std::nullopt);
  const Parameter* word = gpt2->parameters().Find("transformer.wte.weight");
  EXPECT_EQ(word->kind, Kind::kEmbedding);
  EXPECT_EQ(word->group, gpt2->blocks() + 1);
}

}  // namespace
}  // namespace thaw
