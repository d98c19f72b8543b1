// Trainings with an added part: what they change, what they leave, and that they go on with the
// same bits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "tests/worker/training/toy_job.h"
#include "worker/model/model.h"
#include "worker/model/tensor_view.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

constexpr char kLora[] =
    "added_part { lora { rank: 4 alpha: 8 dropout: 0.2 target_modules: \"query\" "
    "target_modules: \"intermediate.dense\" } } output: MERGED ";
constexpr char kPhase[] =
    "phases { selector { name_pattern: \".*lora_.*|classifier.*\" } learning_rate: 0.01 epochs: 3 "
    "} ";

std::vector<nlohmann::json> Predictions(const internal::Run& run) {
  const std::string text = ReadFile(run.work_dir() + "/result/predictions.jsonl").value();
  std::vector<nlohmann::json> lines;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    lines.push_back(ParseJson(line).value());
  }
  return lines;
}

// Merged and unmerged differ by rounding.
void ExpectSamePredictions(const internal::Run& a, const internal::Run& b) {
  const auto of_a = Predictions(a), of_b = Predictions(b);
  ASSERT_EQ(of_a.size(), 100u);
  ASSERT_EQ(of_b.size(), 100u);
  for (size_t i = 0; i < of_a.size(); ++i) {
    for (const auto& [label, score] : of_a[i]["scores"].items()) {
      EXPECT_NEAR(score.get<double>(), of_b[i]["scores"][label].get<double>(), 1e-4);
    }
  }
}

class AddedPartTraining : public ::testing::Test {
 protected:
  AddedPartTraining()
      : model_(MakeToyModel(FreshDirectory("model"), 0.1)),
        dataset_(MakeToyDataset(FreshDirectory("dataset"), 100, 5)) {}

  const std::string model_, dataset_;
};

TEST_F(AddedPartTraining, ChangesItsTargetsAndLeavesTheRestToTheByte) {
  const internal::Run run =
      ToyTraining(model_, dataset_, absl::StrCat("validation_fraction: 0.2 ", kLora, kPhase));
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  EXPECT_LT(sink.Series("loss").rbegin()->second, sink.Series("loss").begin()->second);
  std::set<std::string> trained;
  const v1::PhaseStart phase = sink.Phases().at(0);
  for (const std::string& name : phase.trainable_names()) trained.insert(name);
  EXPECT_EQ(trained.size(), 3u * 2 * 2 + 2);
  EXPECT_EQ(trained.count("bert.encoder.layer.0.attention.self.query.lora_A.weight"), 1u);

  const auto base = SafetensorsFile::Open(model_ + "/model.safetensors").value();
  const auto merged =
      SafetensorsFile::Open(run.work_dir() + "/" + ended.result_dir() + "/model.safetensors")
          .value();
  ASSERT_EQ(merged->tensors().size(), base->tensors().size());
  int changed = 0;
  for (const TensorInfo& info : base->tensors()) {
    const TensorInfo* now = merged->Find(info.name);
    ASSERT_NE(now, nullptr) << info.name;
    const bool may_change = absl::EndsWith(info.name, "query.weight") ||
                            absl::EndsWith(info.name, "intermediate.dense.weight") ||
                            absl::StartsWith(info.name, "classifier.");
    const bool same = at::equal(ViewTensor(base, info), ViewTensor(merged, *now));
    changed += !same;
    EXPECT_TRUE(same || may_change) << info.name;
  }
  EXPECT_EQ(changed, 3 * 2 + 2);
}

// Killed at any step, dropout of base and part on, it ends with the same bits.
TEST_F(AddedPartTraining, ResumesWithTheSameBits) {
  const auto job = [&](int64_t every) {
    return ToyTraining(model_, dataset_,
                       absl::StrCat("validation_fraction: 0.2 checkpoint { every_steps: ", every,
                                    " } ", kLora, kPhase));
  };
  const internal::Run straight = job(1'000'000), dense = job(1);
  RecordingSink straight_sink, dense_sink;
  ASSERT_EQ(RunAttempt(straight, &straight_sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  ASSERT_EQ(RunAttempt(dense, &dense_sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  const std::string weights = ResultWeights(straight);
  EXPECT_EQ(ResultWeights(dense), weights);
  ASSERT_GT(dense_sink.checkpoints.size(), 10u);
  for (size_t i = 0; i < dense_sink.checkpoints.size(); i += 3) {
    internal::Run resumed = job(1'000'000);
    resumed.set_checkpoint_dir(dense.work_dir() + "/" + dense_sink.checkpoints[i].dir());
    RecordingSink sink;
    const internal::Ended ended = RunAttempt(resumed, &sink);
    ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
    EXPECT_EQ(ResultWeights(resumed), weights) << dense_sink.checkpoints[i].ShortDebugString();
  }
  // The part is there, not the weights that it will be computed into.
  const std::string checkpoint = dense.work_dir() + "/" + dense_sink.checkpoints.back().dir();
  const auto file = SafetensorsFile::Open(checkpoint + "/weights.safetensors").value();
  EXPECT_NE(file->Find("bert.encoder.layer.0.attention.self.query.lora_A.weight"), nullptr);
  EXPECT_EQ(file->Find("bert.encoder.layer.0.attention.self.query.weight"), nullptr);
}

TEST_F(AddedPartTraining, APredictionOnItsCheckpointSaysWhatTheResultSays) {
  const internal::Run training = ToyTraining(
      model_, dataset_,
      absl::StrCat("validation_fraction: 0 checkpoint { every_steps: 1 } ", kLora, kPhase));
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(training, &sink);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  const internal::Run from_result =
      ToyPrediction(training.work_dir() + "/" + ended.result_dir(), dataset_, "classify {}");
  internal::Run from_checkpoint = ToyPrediction(model_, dataset_, "classify {}");
  from_checkpoint.set_checkpoint_dir(training.work_dir() + "/" + sink.checkpoints.back().dir());
  v1::TrainingBehind* behind = from_checkpoint.mutable_assignment()->mutable_training_behind();
  *behind->mutable_spec() = training.assignment().spec();
  for (const char* label : {"left", "middle", "right"}) behind->add_labels(label);
  RecordingSink result_sink, checkpoint_sink;
  const internal::Ended a = RunAttempt(from_result, &result_sink);
  const internal::Ended b = RunAttempt(from_checkpoint, &checkpoint_sink);
  ASSERT_EQ(a.end().outcome(), v1::AttemptEnd::SUCCEEDED) << a.ShortDebugString();
  ASSERT_EQ(b.end().outcome(), v1::AttemptEnd::SUCCEEDED) << b.ShortDebugString();
  ExpectSamePredictions(from_result, from_checkpoint);
}

// What the service does not hand out yet, but the trainer knows: an adapter beside its base.
TEST_F(AddedPartTraining, AnAdapterAnswersAsItsMergedModelAndTrainsOn) {
  const auto train = [&](const std::string& output) {
    std::string part = kLora;
    part.replace(part.find("MERGED"), 6, output);
    const internal::Run run =
        ToyTraining(model_, dataset_, absl::StrCat("validation_fraction: 0 ", part, kPhase));
    RecordingSink sink;
    const internal::Ended ended = RunAttempt(run, &sink);
    EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
    return run.work_dir() + "/" + ended.result_dir();
  };
  const std::string merged = train("MERGED"), adapter = train("ADAPTER");
  EXPECT_FALSE(Exists(adapter + "/model.safetensors"));
  EXPECT_TRUE(Exists(adapter + "/tokenizer.json"));
  internal::Run of_merged = ToyPrediction(merged, dataset_, "classify {}");
  internal::Run of_adapter = ToyPrediction(adapter, dataset_, "classify {}");
  RecordingSink sink;
  EXPECT_THAT(RunAttempt(of_adapter, &sink).end().ShortDebugString(), HasSubstr("is an adapter"));
  of_adapter.set_base_dir(model_);
  for (internal::Run* run : {&of_merged, &of_adapter}) {
    const internal::Ended ended = RunAttempt(*run, &sink);
    ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  }
  ExpectSamePredictions(of_merged, of_adapter);

  internal::Run on = ToyTraining(adapter, dataset_,
                                 absl::StrCat("validation_fraction: 0 output: MERGED ", kPhase));
  on.set_base_dir(model_);
  RecordingSink on_sink;
  const internal::Ended ended = RunAttempt(on, &on_sink);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  RecordingSink first_sink;
  RunAttempt(ToyTraining(model_, dataset_, absl::StrCat("validation_fraction: 0 ", kLora, kPhase)),
             &first_sink);
  EXPECT_LT(on_sink.Series("loss").begin()->second, first_sink.Series("loss").begin()->second);

  internal::Run twice =
      ToyTraining(adapter, dataset_, absl::StrCat("validation_fraction: 0 ", kLora, kPhase));
  twice.set_base_dir(model_);
  EXPECT_THAT(RunAttempt(twice, &sink).end().ShortDebugString(),
              HasSubstr("has an added part already"));
}

TEST_F(AddedPartTraining, ATargetThatIsNotThereEndsTheJobBeforeItBegins) {
  const internal::Run run =
      ToyTraining(model_, dataset_,
                  absl::StrCat("added_part { lora { rank: 4 alpha: 8 target_modules: \"qeury\" } } "
                               "output: MERGED ",
                               kPhase));
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::FAILED);
  EXPECT_THAT(ended.end().ShortDebugString(), HasSubstr("the nearest are: query"));
}

}  // namespace
}  // namespace thaw
