// Options of config.json that the recorded models do not use, and inputs that are out of the
// ordinary, against transformers: tests/data/models/variants.json.
#include <cmath>

#include "common/base/json.h"
#include "gtest/gtest.h"
#include "tests/worker/model/model_fixture.h"

namespace thaw {
namespace {

using torch::Tensor;

class RecordedVariant : public ::testing::TestWithParam<int> {};

TEST_P(RecordedVariant, IsTransformers) {
  const auto all = ReadJsonFile(FixtureDirectory("variants.json")).value();
  const nlohmann::json& recorded = all.at(static_cast<size_t>(GetParam()));
  SCOPED_TRACE(recorded["fixture"].dump() + " " + recorded["config"].dump());
  ModelVariant variant{.fixture = recorded["fixture"].get<std::string>(),
                       .config_changes = recorded["config"]};
  for (const auto& [name, made] : recorded["added"].items()) {
    const ModelFixture fixture(variant.fixture, std::nullopt);
    const Tensor& source = fixture.model->parameters().Find(made["of"].get<std::string>())->tensor;
    variant.added[name] = source.slice(0, 0, made["rows"].get<int64_t>()).clone();
  }
  const auto joined = [&](const char* field) {
    std::vector<int64_t> values;
    for (const auto& sequence : recorded[field]) {
      for (const int64_t value : sequence) values.push_back(value);
    }
    return torch::tensor(values, torch::kInt64);
  };
  Packed batch;
  batch.token_ids = joined("sequences");
  if (recorded.contains("token_types")) batch.token_type_ids = joined("token_types");
  batch.cu_seqlens = {0};
  for (const auto& sequence : recorded["sequences"]) {
    batch.cu_seqlens.push_back(batch.cu_seqlens.back() + static_cast<int32_t>(sequence.size()));
  }
  std::vector<float> numbers;  // the first few logits of each row
  for (const auto& row : recorded["logits"]) {
    for (const float number : row) numbers.push_back(number);
  }
  const Tensor expected =
      torch::tensor(numbers).reshape({static_cast<int64_t>(recorded["logits"].size()), -1});

  auto model = LoadModel(variant.Make(), std::nullopt);
  ASSERT_TRUE(model.ok()) << model.status();
  for (const bool reference : {false, true}) {
    MakeTrainable(**model);
    const Tensor logits = LogitsOf(**model, batch, {.reference = reference});
    const Tensor sum = logits.square().sum();
    sum.backward();
    double square = 0;
    for (const Parameter& parameter : (*model)->parameters().all()) {
      const Tensor& gradient = parameter.tensor.grad();
      if (gradient.defined()) square += std::pow(gradient.norm().item<double>(), 2);
    }
    const double worst = MaxDifference(logits.slice(1, 0, expected.size(1)), expected);
    const double norm = recorded["gradient_norm"];
    const double off = std::abs(std::sqrt(square) - norm) / norm;
    std::printf("[ FIGURE   ] %s %s%s: logits differ by at most %.1e, gradient norm off by %.1e\n",
                variant.fixture.c_str(), recorded["config"].dump().c_str(),
                reference ? " (reference path)" : "", worst, off);
    EXPECT_LT(worst, 2e-5);
    EXPECT_NEAR(sum.item<double>(), recorded["square_sum"].get<double>(),
                1e-5 * recorded["square_sum"].get<double>());
    EXPECT_LT(off, 1e-5);
  }
}

int VariantCount() {
  return static_cast<int>(ReadJsonFile(FixtureDirectory("variants.json")).value().size());
}
INSTANTIATE_TEST_SUITE_P(Variants, RecordedVariant, ::testing::Range(0, 18));
TEST(RecordedVariants, AreAllInTheSuite) { EXPECT_EQ(VariantCount(), 18); }

}  // namespace
}  // namespace thaw
