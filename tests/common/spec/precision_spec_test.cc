// Training.precision and Prediction.precision: defaults, and which models compute in which.
#include "common/base/status.h"
#include "common/spec/model_abilities.h"
#include "gmock/gmock.h"
#include "tests/common/spec/spec_examples.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

SpecContext ContextWithAwdLstm() {
  SpecContext context = ContextExample();
  context.artifacts["model-1"].mutable_model()->set_model_type("awd_lstm");
  context.artifacts["awd"] = ModelExample("awd", v1::Artifact::RESULT, {"0", "1"});
  context.artifacts["awd"].mutable_model()->set_model_type("awd_lstm");
  return context;
}

void ExpectOneProblem(const v1::JobSpec& spec, const SpecContext& context, const std::string& field,
                      const std::string& says) {
  const auto violations = ViolationsOf(ResolveSpec(spec, context).status());
  ASSERT_EQ(violations.size(), 1u) << field;
  EXPECT_EQ(violations[0].field, field);
  EXPECT_THAT(violations[0].description, HasSubstr(says));
}

TEST(PrecisionSpecTest, IsFp32UnlessItIsGiven) {
  v1::JobSpec training = TrainingExample(), prediction = PredictionExample();
  EXPECT_EQ(ResolveSpec(training, ContextExample())->training().precision(), v1::FP32);
  EXPECT_EQ(ResolveSpec(prediction, ContextExample())->prediction().precision(), v1::FP32);
  training.mutable_training()->set_precision(v1::BF16);
  prediction.mutable_prediction()->set_precision(v1::BF16);
  EXPECT_EQ(ResolveSpec(training, ContextExample())->training().precision(), v1::BF16);
  EXPECT_EQ(ResolveSpec(prediction, ContextExample())->prediction().precision(), v1::BF16);
}

TEST(PrecisionSpecTest, OneThatThereIsNotIsRefused) {
  v1::JobSpec training = TrainingExample(), prediction = PredictionExample();
  training.mutable_training()->set_precision(static_cast<v1::Precision>(9));
  prediction.mutable_prediction()->set_precision(static_cast<v1::Precision>(9));
  ExpectOneProblem(training, ContextExample(), "spec.training.precision", "give FP32 or BF16");
  ExpectOneProblem(prediction, ContextExample(), "spec.prediction.precision", "give FP32 or BF16");
}

TEST(PrecisionSpecTest, AnAwdLstmComputesInFp32Alone) {
  const SpecContext context = ContextWithAwdLstm();
  v1::JobSpec training = TrainingExample();
  training.mutable_training()->set_precision(v1::BF16);
  const std::string says =
      "BF16; models of type awd_lstm compute in FP32 alone; give that, or leave it out";
  ExpectOneProblem(training, context, "spec.training.precision", says);
  v1::JobSpec plan;
  plan.set_base_model(training.base_model());
  *plan.mutable_plan()->mutable_training() = training.training();
  ExpectOneProblem(plan, context, "spec.plan.training.precision", says);
  training.mutable_training()->set_precision(v1::FP32);
  EXPECT_TRUE(ResolveSpec(training, context).ok());

  v1::JobSpec prediction = PredictionExample();
  prediction.mutable_prediction()->set_precision(v1::BF16);
  prediction.mutable_prediction()->set_model("awd");
  ExpectOneProblem(prediction, context, "spec.prediction.precision", says);
  prediction.mutable_prediction()->set_model("result-1");
  prediction.mutable_prediction()->mutable_classify()->add_average_with("awd");
  ExpectOneProblem(prediction, context, "spec.prediction.classify.average_with[0]", says);
}

TEST(PrecisionSpecTest, EveryOtherFamilyComputesInBoth) {
  for (const char* type : {"bert", "roberta", "distilbert", "gpt2", "llama", "mistral", "qwen2",
                           "qwen3", "bloom", "t5"}) {
    EXPECT_EQ(WhyNotIn(v1::BF16, type), "") << type;
  }
  EXPECT_EQ(WhyNotIn(v1::FP32, "awd_lstm"), "");
  EXPECT_EQ(WhyNotIn(v1::PRECISION_UNSPECIFIED, "awd_lstm"), "");
}

}  // namespace
}  // namespace thaw
