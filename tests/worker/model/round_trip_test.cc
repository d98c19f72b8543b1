// Every recorded model: loaded from files as people have them (without the base model's prefix, in
// shards, in half precision, with and without a copy of a tied matrix) and saved as it came.
#include <cstring>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/model/model_fixture.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using torch::Tensor;

struct RoundTripCase {
  const char* fixture;
  const char* prefix;  // of the base model's names
  // A language model's output layer and the embeddings that the files tie it to.
  const char* output = "";
  const char* word = "";
};
constexpr char kBertWords[] = "bert.embeddings.word_embeddings.weight";
constexpr RoundTripCase kRoundTripCases[] = {
    {"bert", "bert.", "cls.predictions.decoder.weight", kBertWords},
    {"bert-cls", "bert."},
    {"bert-regression", "bert."},
    {"roberta", "roberta.", "lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"},
    {"roberta-cls", "roberta."},
    {"distilbert", "distilbert.", "vocab_projector.weight",
     "distilbert.embeddings.word_embeddings.weight"},
    {"distilbert-cls", "distilbert."},
    {"distilbert-multilabel", "distilbert."},
    {"gpt2", "transformer.", "lm_head.weight", "transformer.wte.weight"},
    {"gpt2-scaled", "transformer.", "lm_head.weight", "transformer.wte.weight"},
    {"gpt2-cls", "transformer."},
    {"bloom-4heads", "transformer.", "lm_head.weight", "transformer.word_embeddings.weight"},
    {"bloom-5heads", "transformer.", "lm_head.weight", "transformer.word_embeddings.weight"},
    {"llama", "model."},
    {"llama-tied-bias", "model.", "lm_head.weight", "model.embed_tokens.weight"},
    {"llama-cls", "model."},
    {"mistral", "model."},
    {"qwen2", "model.", "lm_head.weight", "model.embed_tokens.weight"},
    {"qwen3", "model.", "lm_head.weight", "model.embed_tokens.weight"},
    {"t5", "", "lm_head.weight", "shared.weight"},
    {"t5-v1.1", ""},
};
void PrintTo(const RoundTripCase& round_trip, std::ostream* out) { *out << round_trip.fixture; }

std::shared_ptr<const SafetensorsFile> WeightsIn(const std::string& directory) {
  return SafetensorsFile::Open(directory + "/model.safetensors").value();
}

void ExpectSameFile(const SafetensorsFile& a, const SafetensorsFile& b) {
  EXPECT_EQ(a.metadata(), b.metadata());
  ASSERT_EQ(a.tensors().size(), b.tensors().size());
  for (const TensorInfo& info : a.tensors()) {
    const TensorInfo* const other = b.Find(info.name);
    ASSERT_NE(other, nullptr) << info.name;
    EXPECT_EQ(info.type, other->type) << info.name;
    EXPECT_EQ(info.shape, other->shape) << info.name;
    ASSERT_EQ(info.end - info.begin, other->end - other->begin) << info.name;
    EXPECT_EQ(std::memcmp(a.Data(info), b.Data(*other), static_cast<size_t>(info.end - info.begin)),
              0)
        << info.name;
  }
}

class RoundTrip : public ::testing::TestWithParam<RoundTripCase> {
 protected:
  RoundTrip() : fixture_(GetParam().fixture, std::nullopt), batch_(fixture_.Batch(0).packed) {}

  static std::unique_ptr<Model> Load(const std::string& directory) {
    auto model = LoadModel(directory, std::nullopt);
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  }
  static std::string Saved(const Model& model) {
    const std::string directory = NewTestDirectory();
    EXPECT_TRUE(SaveModel(model, directory).ok());
    return directory;
  }

  ModelFixture fixture_;
  Packed batch_;
};

TEST_P(RoundTrip, SavesTheNamesShapesTypesAndBytesThatItLoaded) {
  const std::string source = FixtureDirectory(GetParam().fixture);
  ExpectSameFile(*WeightsIn(source), *WeightsIn(Saved(*fixture_.model)));
}

TEST_P(RoundTrip, HalfPrecisionIsWidenedAndSavedAsItCame) {
  for (const torch::ScalarType type : {torch::kFloat16, torch::kBFloat16}) {
    ModelVariant variant{.fixture = GetParam().fixture};
    variant.type = type;
    const std::string directory = variant.Make();
    const std::unique_ptr<Model> model = Load(directory);
    for (const Parameter& parameter : fixture_.model->parameters().all()) {
      EXPECT_TRUE(at::equal(model->parameters().Find(parameter.name)->tensor,
                            parameter.tensor.to(type).to(torch::kFloat32)))
          << parameter.name;
    }
    ExpectSameFile(*WeightsIn(directory), *WeightsIn(Saved(*model)));
  }
}

TEST_P(RoundTrip, NamesWithoutThePrefixAreTakenAndKept) {
  ModelVariant variant{.fixture = GetParam().fixture};
  const std::string prefix = GetParam().prefix;
  variant.rename = [&](std::string name) {
    return absl::StartsWith(name, prefix) ? name.substr(prefix.size()) : name;
  };
  const std::string directory = variant.Make();
  const std::unique_ptr<Model> model = Load(directory);
  EXPECT_TRUE(at::equal(LogitsOf(*model, batch_), LogitsOf(*fixture_.model, batch_)));
  for (const Parameter& parameter : fixture_.model->parameters().all()) {
    EXPECT_NE(model->parameters().Find(parameter.name), nullptr) << parameter.name;
  }
  ExpectSameFile(*WeightsIn(directory), *WeightsIn(Saved(*model)));
}

TEST_P(RoundTrip, ShardsAreOneModel) {
  ModelVariant variant{.fixture = GetParam().fixture};
  variant.shards = 3;
  const std::unique_ptr<Model> model = Load(variant.Make());
  EXPECT_LT(MaxDifference(LogitsOf(*model, batch_), LogitsOf(*fixture_.model, batch_)), 1e-6);
  ExpectSameFile(*WeightsIn(FixtureDirectory(GetParam().fixture)), *WeightsIn(Saved(*model)));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, RoundTrip, ::testing::ValuesIn(kRoundTripCases),
                         [](const ::testing::TestParamInfo<RoundTripCase>& info) {
                           return FixtureTestName(info.param.fixture);
                         });

// Whether an output layer is tied is what the files say, not config.json.
class TiedOutput : public RoundTrip {
 protected:
  Tensor Words() const { return fixture_.model->parameters().Find(GetParam().word)->tensor; }
};

TEST_P(TiedOutput, MissingIsTheEmbeddings) {
  const Parameters& parameters = fixture_.model->parameters();
  EXPECT_EQ(parameters.Find(GetParam().output), nullptr);
  const Parameter* const word = parameters.Find(GetParam().word);
  EXPECT_EQ(word->group, static_cast<int>(fixture_.model->groups().size()) - 1);
  EXPECT_EQ(word->first_use, 0);
  EXPECT_TRUE(fixture_.model->output_layer().weight.is_same(word->tensor));
}

TEST_P(TiedOutput, EqualIsTheEmbeddingsAndIsSavedAgain) {
  ModelVariant variant{.fixture = GetParam().fixture};
  variant.added[GetParam().output] = Words().clone();
  const std::string directory = variant.Make();
  const std::unique_ptr<Model> model = Load(directory);
  EXPECT_EQ(model->parameters().Find(GetParam().output), nullptr);
  EXPECT_THAT(model->parameters().Find(GetParam().word)->aliases, ElementsAre(GetParam().output));
  EXPECT_LT(MaxDifference(LogitsOf(*model, batch_), LogitsOf(*fixture_.model, batch_)), 1e-6);
  ExpectSameFile(*WeightsIn(directory), *WeightsIn(Saved(*model)));
  // What was trained is trained in both places.
  MakeTrainable(*model);
  const auto saved = WeightsIn(Saved(*model));
  for (const char* name : {GetParam().output, GetParam().word}) {
    EXPECT_TRUE(at::equal(ViewTensor(saved, *saved->Find(name)), Words())) << name;
  }
}

TEST_P(TiedOutput, DifferentStandsForItself) {
  ModelVariant variant{.fixture = GetParam().fixture};
  variant.config_changes = {{"tie_word_embeddings", true}};
  const Tensor own = Words() * 2;
  variant.added[GetParam().output] = own;
  const std::string directory = variant.Make();
  const std::unique_ptr<Model> model = Load(directory);
  const Parameter* const output = model->parameters().Find(GetParam().output);
  ASSERT_NE(output, nullptr);
  EXPECT_EQ(model->parameters().Find(GetParam().word)->group, 0);
  const OutputLayer tied = fixture_.model->output_layer();
  const Tensor bias = tied.bias.defined() ? tied.bias : at::zeros({1});
  EXPECT_LT(MaxDifference(LogitsOf(*model, batch_) - bias,
                          2 * (LogitsOf(*fixture_.model, batch_) - bias)),
            2e-5);
  ExpectSameFile(*WeightsIn(directory), *WeightsIn(Saved(*model)));
}

std::vector<RoundTripCase> TiedCases() {
  std::vector<RoundTripCase> cases;
  for (const RoundTripCase& round_trip : kRoundTripCases) {
    if (*round_trip.output != '\0') cases.push_back(round_trip);
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Fixtures, TiedOutput, ::testing::ValuesIn(TiedCases()),
                         [](const ::testing::TestParamInfo<RoundTripCase>& info) {
                           return FixtureTestName(info.param.fixture);
                         });

}  // namespace
}  // namespace thaw
