// Predictions in bf16 beside the same ones in fp32.
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "tests/worker/training/toy_job.h"
#include "worker/model/tensor_view.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

constexpr char kTexts[] = "texts { values: \"w1 w2 w3\" values: \"w4 w9 w2 w2 w100\" } ";

internal::Run Work(const std::string& model, const std::string& prediction, bool half) {
  internal::Run run = ToyPrediction(model, "", "");
  v1::Prediction* spec = run.mutable_assignment()->mutable_spec()->mutable_prediction();
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(
      absl::StrCat(prediction, half ? " precision: BF16" : " precision: FP32"), spec))
      << prediction;
  return run;
}

std::vector<nlohmann::json> LinesOf(const internal::Run& run) {
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  std::vector<nlohmann::json> lines;
  const auto text = ReadFile(run.work_dir() + "/result/predictions.jsonl");
  for (const absl::string_view line : absl::StrSplit(text.value_or(""), '\n', absl::SkipEmpty())) {
    lines.push_back(ParseJson(line).value());
  }
  return lines;
}

TEST(HalfPredictions, ClassifyAnswersNearlyAlike) {
  const std::string model = MakeToyModel(FreshDirectory("model"), 0);
  const std::string task = absl::StrCat(kTexts, "classify {}");
  const auto half = LinesOf(Work(model, task, true)), full = LinesOf(Work(model, task, false));
  ASSERT_EQ(half.size(), 2u);
  bool differs = false;
  for (size_t row = 0; row < half.size(); ++row) {
    for (size_t i = 0; i < half[row]["logits"].size(); ++i) {
      const double a = half[row]["logits"][i], b = full[row]["logits"][i];
      EXPECT_NEAR(a, b, 0.05);
      differs |= a != b;
    }
  }
  EXPECT_TRUE(differs) << "nothing was rounded";
}

TEST(HalfPredictions, EmbedGivesFp32VectorsNearlyAlike) {
  const std::string model = MakeToyModel(FreshDirectory("model"), 0);
  torch::Tensor vectors[2];
  for (const bool half : {false, true}) {
    const internal::Run run = Work(model, absl::StrCat(kTexts, "embed {}"), half);
    LinesOf(run);
    const auto file =
        SafetensorsFile::Open(run.work_dir() + "/result/embeddings.safetensors").value();
    vectors[half] = ViewTensor(file, *file->Find("embeddings"));
    ASSERT_EQ(vectors[half].scalar_type(), torch::kFloat32);
  }
  const torch::Tensor cosines = (vectors[0] * vectors[1]).sum(1);
  EXPECT_GT(cosines.min().item<double>(), 0.999);
  EXPECT_FALSE(at::equal(vectors[0], vectors[1]));
}

TEST(HalfPredictions, ScoresAreNearlyAlike) {
  for (const char* fixture : {"gpt2", "llama"}) {
    const std::string model = MakeToyWriter(FreshDirectory("model"), fixture, 0);
    const std::string task = absl::StrCat(kTexts, "score {}");
    const auto half = LinesOf(Work(model, task, true)), full = LinesOf(Work(model, task, false));
    ASSERT_EQ(half.size(), 2u);
    for (size_t row = 0; row < half.size(); ++row) {
      const double a = half[row]["log_probability"], b = full[row]["log_probability"];
      EXPECT_NEAR(a / b, 1, 2e-2) << fixture;
      EXPECT_NE(a, b);
    }
  }
}

TEST(HalfPredictions, EveryWriterWrites) {
  for (const char* fixture : {"gpt2", "llama", "t5"}) {
    const std::string model = MakeToyWriter(FreshDirectory("model"), fixture, 0);
    const std::string task =
        absl::StrCat(kTexts, "generate { max_new_tokens: 6 ignore_end: true }");
    const auto first = LinesOf(Work(model, task, true)), again = LinesOf(Work(model, task, true));
    ASSERT_EQ(first.size(), 2u);
    EXPECT_EQ(first[0]["tokens"], 6);
    EXPECT_EQ(first, again);
  }
}

TEST(HalfPredictions, AveragesAreOfModelsInBf16) {
  const std::string model = MakeToyModel(FreshDirectory("model"), 0);
  internal::Run run = Work(model, absl::StrCat(kTexts, "classify {}"), true);
  run.add_average_with_dirs(model);
  const auto both = LinesOf(run);
  const auto alone = LinesOf(Work(model, absl::StrCat(kTexts, "classify {}"), true));
  EXPECT_EQ(both[0]["scores"], alone[0]["scores"]);
}

TEST(HalfPredictions, AnAwdLstmIsRefused) {
  RecordingSink sink;
  const v1::AttemptEnd end = RunAttempt(Work(MakeToyLstm(FreshDirectory("model"), 1),
                                             "texts { values: \"w1\" } generate {}", true),
                                        &sink)
                                 .end();
  EXPECT_EQ(end.failure().blame(), v1::Failure::USER);
  EXPECT_THAT(end.failure().message(), HasSubstr("computes in fp32 alone"));
}

}  // namespace
}  // namespace thaw
