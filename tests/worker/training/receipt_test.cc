#include "worker/training/receipt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/files.h"
#include "tests/testing/fake_clock.h"
#include "tests/worker/training/toy_job.h"
#include "worker/data/tokenized_dataset.h"
#include "worker/training/history.h"
#include "worker/training/training_inputs.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

constexpr char kShort[] =
    "validation_fraction: 0.2 phases { selector { everything: true } learning_rate: 0.005 steps: 3 "
    "}";

TEST(Receipt, NamesWhatTheResultWasMadeOf) {
  internal::Run run = ToyTraining(MakeToyModel(FreshDirectory("model"), 0.1),
                                  MakeToyDataset(FreshDirectory("dataset"), 60, 5), kShort);
  run.mutable_assignment()->mutable_model()->set_id("model-1");
  run.mutable_assignment()->mutable_model()->set_digest("aa");
  run.mutable_assignment()->mutable_dataset()->set_id("dataset-1");
  run.mutable_assignment()->mutable_dataset()->set_digest("bb");
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(run, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  const internal::Receipt receipt = ReceiptOf(run);
  EXPECT_EQ(receipt.format_version(), 1);
  ASSERT_EQ(receipt.inputs_size(), 2);
  EXPECT_EQ(receipt.inputs(0).field(), "spec.base_model");
  EXPECT_EQ(receipt.inputs(1).digest(), "bb");
  EXPECT_EQ(receipt.resolved_spec().training().phases(0).steps(), 3);
  EXPECT_FALSE(receipt.fingerprint().thaw_version().empty());
  EXPECT_EQ(receipt.probes().rows(), 4);
  EXPECT_EQ(receipt.probes().numbers(), 12);
  EXPECT_EQ(receipt.probes().greatest_difference(), 0);

  // The same again, the same history; another seed, another one.
  RecordingSink again_sink;
  internal::Run again = ToyTraining(run.model_dir(), run.dataset_dir(), kShort);
  RunAttempt(again, &again_sink);
  EXPECT_EQ(ReceiptOf(again).history_sha256(), receipt.history_sha256());
  EXPECT_EQ(ReceiptOf(again).probes().sha256(), receipt.probes().sha256());
  again = ToyTraining(run.model_dir(), run.dataset_dir(), std::string(kShort) + " seed: 7");
  RunAttempt(again, &again_sink);
  EXPECT_NE(ReceiptOf(again).history_sha256(), receipt.history_sha256());
}

TEST(Receipt, TellsWhatTheMachineMadeOfIt) {
  internal::Run run = ToyTraining(MakeToyModel(FreshDirectory("model"), 0.1),
                                  MakeToyDataset(FreshDirectory("dataset"), 60, 5), kShort);
  RecordingSink sink;
  RunAttempt(run, &sink);
  EXPECT_EQ(ReceiptOf(run).micro_step_divisor(), 0) << "as the spec says";
  EXPECT_EQ(ReceiptOf(run).ran_out_of_time_at(), 0);
  EXPECT_EQ(ReceiptOf(run).steered_size(), 0);
  run.set_work_dir(FreshDirectory("work"));
  run.mutable_assignment()->set_micro_step_divisor(4);
  run.mutable_assignment()->mutable_runtime_left()->set_seconds(10);
  FakeClock clock;
  Control control;
  sink.on_point = [&](const v1::MetricPoint& point) {
    if (point.step() == 2) clock.AdvanceSeconds(20);
  };
  RunAttempt(run, &sink, &control, clock);
  const internal::Receipt receipt = ReceiptOf(run);
  EXPECT_EQ(receipt.micro_step_divisor(), 4);
  EXPECT_EQ(receipt.ran_out_of_time_at(), 2);
  ASSERT_EQ(receipt.steered_size(), 1);
  EXPECT_EQ(receipt.steered(0).step(), 2);
  EXPECT_TRUE(receipt.steered(0).action().stop());
}

// Files that give other answers than the trainer are found before anybody gets them.
TEST(Receipt, OtherWeightsAreFoundOut) {
  const std::string directory = MakeToyModel(FreshDirectory("model"), 0);
  const internal::Run run =
      ToyTraining(directory, MakeToyDataset(FreshDirectory("dataset"), 60, 5), kShort);
  const auto model = LoadModel(directory, std::nullopt);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto inputs = ReadTrainingInputs(run, directory, (*model)->config(), 1, [] {});
  ASSERT_TRUE(inputs.ok()) << inputs.status();
  const auto check = [&] {
    const auto answers = AnswerProbes(model->get(), inputs->training, 2048);
    EXPECT_TRUE(answers.ok()) << answers.status();
    const auto saved = LoadModel(directory, std::nullopt);
    return CheckProbes(*answers, saved->get());
  };
  const auto same = check();
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_EQ(same->greatest_difference(), 0);

  const Parameter* bias = (*model)->parameters().Find("classifier.bias");
  ASSERT_NE(bias, nullptr);
  ASSERT_TRUE((*model)->parameters().SetTensor(bias->name, bias->tensor + 0.01).ok());
  EXPECT_THAT(check().status().ToString(),
              HasSubstr("INTERNAL: the result's files give other answers"));
  ASSERT_TRUE((*model)->parameters().SetTensor(bias->name, bias->tensor / 0).ok());
  EXPECT_THAT(AnswerProbes(model->get(), inputs->training, 2048).status().ToString(),
              HasSubstr("not finite"));
}

TEST(History, DependsOnEveryBitAndOnTheOrder) {
  const auto of = [](double first, double second) {
    History history;
    history.StepDone(1, first, 8);
    history.StepDone(2, second, 8);
    return history.digest();
  };
  EXPECT_EQ(of(1, 2), of(1, 2));
  EXPECT_NE(of(1, 2), of(2, 1));
  EXPECT_NE(of(0.0, 2), of(-0.0, 2));
  History resumed;
  resumed.StepDone(1, 1, 8);
  History later;
  later.GoOnFrom(resumed.digest(), 1);
  later.StepDone(2, 2, 8);
  EXPECT_EQ(later.digest(), of(1, 2));
  // A tail is not the whole.
  later.GoOnFrom("", 1);
  later.StepDone(2, 2, 8);
  EXPECT_EQ(later.digest(), "");
}

}  // namespace
}  // namespace thaw
