// Models that compute in bf16: which matrices are rounded, what becomes of the masters.
#include <algorithm>
#include <fstream>
#include <set>
#include <string>

#include "common/base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/model/model_fixture.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;
using torch::Tensor;

bool IsRounded(const Parameter& parameter) {
  return parameter.half.defined() && parameter.half.scalar_type() == torch::kBFloat16 &&
         at::equal(parameter.half, parameter.tensor.to(torch::kBFloat16));
}

std::set<std::string> NamesWithHalves(const Model& model) {
  std::set<std::string> names;
  for (const Parameter& parameter : model.parameters().all()) {
    if (parameter.half.defined()) names.insert(parameter.name);
  }
  return names;
}

class HalvesOf : public ::testing::TestWithParam<const char*> {};

TEST_P(HalvesOf, EveryMatrixThatMeetsRowsAndNothingElse) {
  ModelFixture fixture(GetParam(), std::nullopt, /*half=*/true);
  const Model& model = *fixture.model;
  std::set<std::string> expected;
  const bool classifies = model.config().head == HeadKind::kClassifier;
  const int head = model.blocks() + 1;
  for (const LinearLayer& linear : model.linears()) {
    // A classifier's own layers read a row a sequence, in fp32.
    if (linear.weight->group < head || !classifies) expected.insert(linear.weight->name);
  }
  ASSERT_GT(expected.size(), 3u);
  if (model.config().head == HeadKind::kLanguageModel) {
    ASSERT_TRUE(model.output_layer().half.defined());
    for (const Parameter& parameter : model.parameters().all()) {
      if (parameter.tensor.is_same(model.output_layer().weight)) expected.insert(parameter.name);
    }
  }
  EXPECT_EQ(NamesWithHalves(model), expected);
  for (const Parameter& parameter : model.parameters().all()) {
    if (parameter.half.defined()) {
      EXPECT_TRUE(IsRounded(parameter)) << parameter.name;
    }
  }
  EXPECT_EQ(model.rows_type(), torch::kBFloat16);
  EXPECT_TRUE(NamesWithHalves(*ModelFixture(GetParam(), std::nullopt).model).empty());
}

INSTANTIATE_TEST_SUITE_P(Families, HalvesOf,
                         ::testing::Values("bert", "bert-cls", "roberta", "distilbert-cls", "gpt2",
                                           "gpt2-cls", "bloom-5heads", "llama", "llama-tied-bias",
                                           "qwen3", "t5", "t5-v1.1"),
                         [](const auto& info) { return FixtureTestName(info.param); });

TEST(Halves, AReplacedTensorHasNoneUntilItIsRounded) {
  ModelFixture fixture("llama", std::nullopt, /*half=*/true);
  Parameters& parameters = fixture.model->parameters();
  const Parameter* const weight = parameters.Find("model.layers.0.mlp.up_proj.weight");
  const Tensor before = weight->half;
  ASSERT_TRUE(parameters.SetTensor(weight->name, at::full(weight->tensor.sizes(), 1.001)).ok());
  EXPECT_FALSE(weight->half.defined());
  parameters.RoundMatrices();
  EXPECT_TRUE(IsRounded(*weight));
  EXPECT_FALSE(at::equal(weight->half, before));
}

// A file in bf16 or fp16 is not copied: the masters stay what they are on the disk.
TEST(Halves, MatricesKeepTheTypeOfTheirFile) {
  for (const torch::ScalarType type : {torch::kBFloat16, torch::kFloat16}) {
    ModelVariant variant;
    variant.fixture = "llama";
    variant.type = type;
    const std::string directory = variant.Make();
    auto model = LoadModel(directory, std::nullopt, /*half=*/true).value();
    const auto plain = LoadModel(directory, std::nullopt).value();
    for (const Parameter& parameter : model->parameters().all()) {
      const Tensor fp32 = plain->parameters().Find(parameter.name)->tensor;
      const bool stored = parameter.rounds && parameter.kind != ParameterKind::kEmbedding;
      EXPECT_EQ(parameter.tensor.scalar_type(), stored ? type : torch::kFloat32) << parameter.name;
      EXPECT_TRUE(at::equal(parameter.master(), fp32)) << parameter.name;
      if (!parameter.rounds) continue;
      EXPECT_TRUE(at::equal(parameter.half, fp32.to(torch::kBFloat16))) << parameter.name;
      const bool shares = parameter.half.const_data_ptr() == parameter.tensor.const_data_ptr();
      EXPECT_EQ(shares, stored && type == torch::kBFloat16) << parameter.name;
    }
    // What was trained and put back is as it was loaded; another value is not.
    const Parameter* const weight = model->parameters().Find("model.layers.1.mlp.up_proj.weight");
    ASSERT_TRUE(model->parameters().SetTensor(weight->name, weight->master().clone()).ok());
    EXPECT_EQ(weight->tensor.scalar_type(), torch::kFloat32);
    EXPECT_TRUE(weight->as_loaded());
    ASSERT_TRUE(model->parameters().SetTensor(weight->name, weight->tensor * 1.5).ok());
    EXPECT_FALSE(weight->as_loaded());
    ASSERT_TRUE(model->parameters().SetTensor(weight->name, weight->source.loaded).ok());
    const std::string saved = NewTestDirectory();
    ASSERT_TRUE(SaveModel(*model, saved).ok());
    EXPECT_TRUE(ReadFile(saved + "/model.safetensors").value() ==
                ReadFile(directory + "/model.safetensors").value());
  }
}

TEST(Halves, WhatIsSavedIsTheMasters) {
  ModelFixture fixture("bert-cls", std::nullopt, /*half=*/true);
  const std::string saved = NewTestDirectory();
  ASSERT_TRUE(SaveModel(*fixture.model, saved).ok());
  const auto before =
      SafetensorsFile::Open(FixtureDirectory("bert-cls") + "/model.safetensors").value();
  const auto after = SafetensorsFile::Open(saved + "/model.safetensors").value();
  ASSERT_EQ(after->tensors().size(), before->tensors().size());
  for (const TensorInfo& info : after->tensors()) {
    EXPECT_TRUE(at::equal(ViewTensor(after, info), ViewTensor(before, *before->Find(info.name))))
        << info.name;
  }
}

TEST(Halves, AnAwdLstmIsRefused) {
  const std::string directory = NewTestDirectory();
  const nlohmann::json config = {{"model_type", "awd_lstm"},
                                 {"vocab_size", 8},
                                 {"hidden_size", 4},
                                 {"lstm_size", 6},
                                 {"num_hidden_layers", 1}};
  ASSERT_TRUE(WriteFileAtomically(directory + "/config.json", config.dump()).ok());
  ASSERT_TRUE(LoadModel(directory, std::nullopt).ok());
  const auto model = LoadModel(directory, std::nullopt, /*half=*/true);
  EXPECT_THAT(model.status().message(), HasSubstr("\"awd_lstm\" computes in fp32 alone"));
}

// Bytes of the file's mapping that are in this process's memory.
int64_t ResidentBytesOf(const std::string& path) {
  std::ifstream maps("/proc/self/smaps");
  std::string line;
  bool of_file = false;
  int64_t bytes = 0;
  while (std::getline(maps, line)) {
    if (line.find('-') < line.find(' ')) of_file = line.find(path) != std::string::npos;
    if (of_file && line.rfind("Rss:", 0) == 0) bytes += std::stoll(line.substr(4)) << 10;
  }
  return bytes;
}

TEST(Halves, MastersInAFileLeaveMemoryAndComeBack) {
  const std::string path = NewTestDirectory() + "/model.safetensors";
  constexpr int64_t kRows = 1024;
  const Tensor big = at::arange(kRows * kRows, torch::kFloat32).view({kRows, kRows}).contiguous();
  ASSERT_TRUE(WriteSafetensors(path, {ToWrite("big", big)}).ok());
  const auto file = SafetensorsFile::Open(path).value();
  Parameter parameter;
  parameter.name = "big";
  parameter.rounds = true;
  parameter.tensor = ViewTensor(file, *file->Find("big"));
  parameter.source = {file, file->Find("big"), "big", parameter.tensor};
  Parameters parameters;
  const Parameter* const added = parameters.Add(std::move(parameter));
  ASSERT_TRUE(at::equal(added->tensor, big));
  EXPECT_GT(ResidentBytesOf(path), big.nbytes() / 2);
  parameters.RoundMatrices();
  EXPECT_LT(ResidentBytesOf(path), big.nbytes() / 16);
  EXPECT_TRUE(IsRounded(*added));
  EXPECT_TRUE(at::equal(added->tensor, big));
}

}  // namespace
}  // namespace thaw
