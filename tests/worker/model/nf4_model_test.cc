// Models whose linear layers are in NF4: as bitsandbytes has stored them, and made so in loading.
#include "common/base/files.h"
#include "gmock/gmock.h"
#include "tests/worker/model/model_fixture.h"
#include "worker/model/nf4.h"
#include "worker/model/nf4_files.h"

namespace thaw {
namespace {

using testing::HasSubstr;
using torch::Tensor;

std::string Nf4Directory(const std::string& name) { return FixtureDirectory("../nf4/" + name); }

std::unique_ptr<Model> LoadNf4(const std::string& directory) {
  return LoadModel(directory, std::nullopt, {.nf4 = true}).value();
}

TEST(Nf4ModelTest, RecordedDirectoriesGiveTheRecordedLogits) {
  for (const std::string name : {"llama", "gpt2", "bert-cls"}) {
    const ModelFixture fixture(name, std::nullopt);
    const FixtureBatch batch = fixture.Batch(0);
    const auto model = LoadModel(Nf4Directory(name), std::nullopt).value();
    const auto file = SafetensorsFile::Open(Nf4Directory(name) + "/expected.safetensors").value();
    Tensor expected = ViewTensor(file, *file->Find("logits"));
    if (expected.dim() == 3) {
      expected = expected.flatten(0, 1).index_select(0, batch.padded_index);
    }
    for (const bool reference : {false, true}) {
      const Tensor logits = LogitsOf(*model, batch.packed, {.reference = reference});
      EXPECT_LT(MaxDifference(logits, expected), 2e-5) << name;
      // Not those of the model in fp32.
      EXPECT_GT(MaxDifference(logits, LogitsOf(*fixture.model, batch.packed)), 1e-2) << name;
    }
  }
}

TEST(Nf4ModelTest, LoadingQuantisesToTheRecordedCodes) {
  for (const std::string name : {"llama", "gpt2"}) {
    const auto recorded = LoadModel(Nf4Directory(name), std::nullopt).value();
    const auto model = LoadNf4(FixtureDirectory(name));
    int compared = 0;
    for (const Parameter& parameter : model->parameters().all()) {
      const Nf4Matrix* const found = Nf4Of(parameter.tensor);
      const Nf4Matrix* const expected = Nf4Of(recorded->parameters().Find(parameter.name)->tensor);
      ASSERT_EQ(found == nullptr, expected == nullptr) << parameter.name;
      if (found == nullptr) continue;
      ++compared;
      EXPECT_TRUE(parameter.compressed);
      EXPECT_TRUE(at::equal(found->codes, expected->codes)) << parameter.name;
      EXPECT_EQ(found->input_major, name == "gpt2");
    }
    EXPECT_EQ(compared, name == "llama" ? 21 : 12);
  }
}

TEST(Nf4ModelTest, SavingARecordedDirectoryKeepsItsBytes) {
  for (const std::string name : {"llama", "gpt2", "bert-cls"}) {
    const auto model = LoadModel(Nf4Directory(name), std::nullopt).value();
    const std::string directory = NewTestDirectory();
    ASSERT_TRUE(SaveModel(*model, directory).ok());
    const auto before = SafetensorsFile::Open(Nf4Directory(name) + "/model.safetensors").value();
    const auto after = SafetensorsFile::Open(directory + "/model.safetensors").value();
    EXPECT_EQ(before->tensors().size(), after->tensors().size());
    for (const TensorInfo& tensor : before->tensors()) {
      const TensorInfo* const saved = after->Find(tensor.name);
      ASSERT_NE(saved, nullptr) << tensor.name;
      EXPECT_TRUE(at::equal(ViewTensor(before, tensor), ViewTensor(after, *saved))) << tensor.name;
    }
    EXPECT_TRUE(LoadModel(directory, std::nullopt).value()->config().nf4.has_value());
  }
}

// Of every family, by our kernels and in plain operations: the very numbers that a model in fp32
// computes whose weights are what the codes stand for.
TEST(Nf4ModelTest, ComputesWhatTheDequantisedModelComputes) {
  for (const std::string name :
       {"llama", "llama-tied-bias", "qwen3", "mistral", "gpt2", "bloom-5heads", "bert-cls", "bert",
        "roberta-cls", "distilbert-cls", "t5", "t5-v1.1"}) {
    const ModelFixture fixture(name, std::nullopt);
    const FixtureBatch batch = fixture.Batch(0);
    const auto model = LoadNf4(FixtureDirectory(name));
    const std::string directory = NewTestDirectory(), in_nf4 = NewTestDirectory();
    const Tensor logits = LogitsOf(*model, batch.packed);
    const Tensor plain = LogitsOf(*model, batch.packed, {.reference = true});
    ASSERT_TRUE(SaveModel(*model, in_nf4).ok());
    const auto again = LoadModel(in_nf4, std::nullopt).value();
    EXPECT_TRUE(at::equal(LogitsOf(*again, batch.packed), logits)) << name;
    model->Dequantise();
    EXPECT_TRUE(at::equal(LogitsOf(*model, batch.packed), logits)) << name;
    ASSERT_TRUE(SaveModel(*model, directory).ok());
    const auto dense = LoadModel(directory, std::nullopt).value();
    EXPECT_FALSE(dense->config().nf4.has_value());
    for (const Parameter& parameter : dense->parameters().all()) {
      EXPECT_FALSE(parameter.compressed);
      EXPECT_FALSE(parameter.tensor.is_meta());
    }
    EXPECT_TRUE(at::equal(LogitsOf(*dense, batch.packed), logits)) << name;
    EXPECT_TRUE(at::equal(LogitsOf(*dense, batch.packed, {.reference = true}), plain)) << name;
    EXPECT_GT(MaxDifference(logits, LogitsOf(*fixture.model, batch.packed)), 1e-3) << name;
  }
}

// A vocabulary of several parts, forward and backward, against the table in fp32.
TEST(Nf4ModelTest, TablesInBf16AreReadPartByPart) {
  const int64_t vocabulary = 5000, width = 512, rows = 40;
  const Tensor table = at::randn({vocabulary, width}).to(torch::kBFloat16);
  const Tensor bias = at::randn({vocabulary}), labels = at::arange(rows) * 100;
  Tensor losses[2], gradients[2], logits[2], few[2], probabilities[2];
  const Tensor values = at::randn({rows, width}) * 0.1;
  for (const int dense : {0, 1}) {
    const Tensor weight = dense == 1 ? table.to(torch::kFloat32) : table;
    Tensor states = values.clone().requires_grad_(true);
    losses[dense] = LinearCrossEntropySum(Path::kKernels, states, weight, bias, labels);
    losses[dense].backward();
    gradients[dense] = states.grad();
    const torch::NoGradGuard no_grad;
    logits[dense] = Linear(Path::kKernels, values, {weight, bias});
    few[dense] = Linear(Path::kKernels, values.narrow(0, 0, 3), {weight, bias});
    probabilities[dense] = LinearLogProbabilities(Path::kKernels, values, weight, bias, labels);
  }
  for (const auto* pair : {&losses, &gradients, &logits, &few, &probabilities}) {
    const double largest = (*pair)[1].abs().max().to(torch::kFloat64).item<double>();
    EXPECT_LT(MaxDifference((*pair)[0], (*pair)[1]), 1e-5 * std::max(largest, 1.0));
  }
}

TEST(Nf4ModelTest, FamiliesInFp32AloneAreRefused) {
  const std::string directory = NewTestDirectory();
  const auto load = [&](const char* more, bool nf4) {
    const std::string config = absl::StrCat(
        R"({"model_type": "awd_lstm", "vocab_size": 9, "hidden_size": 4, "lstm_size": 6,
            "num_hidden_layers": 2)",
        more, "}");
    EXPECT_TRUE(WriteFileAtomically(directory + "/config.json", config).ok());
    return LoadModel(directory, std::nullopt, {.nf4 = nf4}).status().ToString();
  };
  EXPECT_THAT(load("", true), HasSubstr("\"awd_lstm\" computes in fp32 alone"));
  EXPECT_THAT(
      load(R"(, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true,
                      "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true})",
           false),
      HasSubstr("\"awd_lstm\" computes in fp32 alone"));
}

}  // namespace
}  // namespace thaw
