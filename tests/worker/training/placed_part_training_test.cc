// Trainings with each kind of added part: killed at any step of a program they end with the same
// bits, and what is left answers and trains on.
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <numeric>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "tests/worker/training/toy_job.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

struct KindOfPart {
  const char* name;
  const char* text;
  const char* weights;  // of the result
  size_t points;        // from which it is resumed
};
constexpr KindOfPart kKinds[] = {
    {"lora", "added_part { lora { rank: 4 alpha: 8 dropout: 0.2 } } output: MERGED ",
     "model.safetensors", 30},
    {"prompt", "added_part { prompt_tuning { virtual_tokens: 4 } } output: ADAPTER ",
     "adapter_model.safetensors", 8},
    {"text",
     "added_part { prompt_tuning { virtual_tokens: 4 initial_text: \"w3 w4 w5\" } } "
     "output: ADAPTER ",
     "adapter_model.safetensors", 8},
    {"prefix", "added_part { prefix_tuning { virtual_tokens: 4 } } output: ADAPTER ",
     "adapter_model.safetensors", 8},
    {"houlsby",
     "added_part { bottleneck { place: HOULSBY reduction: 4 scale: 1 } } "
     "output: ADAPTER ",
     "adapter_model.safetensors", 8},
    {"parallel",
     "added_part { bottleneck { place: PARALLEL reduction: 4 scale: 4 } } "
     "output: ADAPTER ",
     "adapter_model.safetensors", 8},
};

constexpr char kFourPhases[] = R"(
  validation_fraction: 0 batch { examples_per_step: 8 tokens_per_micro_step: 64 }
  phases { name: "head" selector { head_only: true } learning_rate: 0.01 steps: 8 }
  phases { name: "part" selector { kind: ADDED_PARTS } learning_rate: 0.01 steps: 9
           schedule { shape: SLANTED_TRIANGULAR } }
  phases { name: "top" selector { last_blocks: 1 } learning_rate: 0.005 learning_rate_decay: 2.6
           steps: 8 optimizer_state: RESET }
  phases { name: "all" selector { everything: true } learning_rate: 0.002 steps: 9 }
)";

// Of the first quarter of the steps, or the last.
double MeanLoss(const RecordingSink& sink, bool last) {
  std::vector<double> losses;
  for (const auto& [step, loss] : sink.Series("loss")) losses.push_back(loss);
  const size_t quarter = losses.size() / 4;
  const auto begin = last ? losses.end() - static_cast<std::ptrdiff_t>(quarter) : losses.begin();
  return std::accumulate(begin, begin + static_cast<std::ptrdiff_t>(quarter), 0.0) /
         static_cast<double>(quarter);
}

class PlacedPartTraining : public ::testing::TestWithParam<KindOfPart> {
 protected:
  PlacedPartTraining()
      : model_(MakeToyModel(FreshDirectory("model"), 0.1)),
        dataset_(MakeToyDataset(FreshDirectory("dataset"), 60, 5)) {}

  internal::Run Job(int64_t every) const {
    return ToyTraining(
        model_, dataset_,
        absl::StrCat(GetParam().text, kFourPhases, "checkpoint { every_steps: ", every, " } "));
  }
  static std::string WeightsOf(const internal::Run& run) {
    return ReadFile(run.work_dir() + "/result/" + GetParam().weights).value();
  }

  const std::string model_, dataset_;
};

TEST_P(PlacedPartTraining, ResumesAnywhereInFourPhasesWithTheSameBits) {
  const internal::Run straight = Job(1'000'000), dense = Job(1);
  RecordingSink straight_sink, dense_sink;
  const internal::Ended ended = RunAttempt(straight, &straight_sink);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  ASSERT_EQ(RunAttempt(dense, &dense_sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  const std::string weights = WeightsOf(straight);
  EXPECT_EQ(WeightsOf(dense), weights);
  ASSERT_GE(dense_sink.checkpoints.size(), GetParam().points);
  const unsigned seed = std::random_device()();
  std::mt19937 random(seed);
  std::vector<internal::CheckpointReady> points = dense_sink.checkpoints;
  std::shuffle(points.begin(), points.end(), random);
  points.resize(GetParam().points);
  int mismatches = 0;
  for (const internal::CheckpointReady& checkpoint : points) {
    internal::Run resumed = Job(1'000'000);
    resumed.set_checkpoint_dir(dense.work_dir() + "/" + checkpoint.dir());
    RecordingSink sink;
    const internal::Ended end = RunAttempt(resumed, &sink);
    ASSERT_EQ(end.end().outcome(), v1::AttemptEnd::SUCCEEDED) << end.ShortDebugString();
    const bool same = WeightsOf(resumed) == weights;
    EXPECT_TRUE(same) << "from " << checkpoint.ShortDebugString() << ", seed " << seed;
    mismatches += !same;
  }
  std::cout << "resume with " << GetParam().name << ": seed " << seed << ", points tried "
            << points.size() << ", mismatches " << mismatches << std::endl;
}

TEST_P(PlacedPartTraining, ItsCheckpointAnswersAsItsResultWhichTrainsOn) {
  const std::string phases =
      "validation_fraction: 0 checkpoint { every_steps: 1 } "
      "phases { selector { kind: ADDED_PARTS } learning_rate: 0.01 epochs: 8 } ";
  const internal::Run training =
      ToyTraining(model_, dataset_, absl::StrCat(GetParam().text, phases));
  RecordingSink sink, silent;
  const internal::Ended ended = RunAttempt(training, &sink);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  EXPECT_LT(MeanLoss(sink, true), MeanLoss(sink, false));
  const std::string result = training.work_dir() + "/" + ended.result_dir();
  const bool merged = Exists(result + "/model.safetensors");

  internal::Run of_result = ToyPrediction(result, dataset_, "classify {}");
  if (!merged) of_result.set_base_dir(model_);
  internal::Run of_checkpoint = ToyPrediction(model_, dataset_, "classify {}");
  of_checkpoint.set_checkpoint_dir(training.work_dir() + "/" + sink.checkpoints.back().dir());
  v1::TrainingBehind* behind = of_checkpoint.mutable_assignment()->mutable_training_behind();
  *behind->mutable_spec() = training.assignment().spec();
  for (const char* label : {"left", "middle", "right"}) behind->add_labels(label);
  std::string answers[2];
  for (internal::Run* run : {&of_result, &of_checkpoint}) {
    const internal::Ended end = RunAttempt(*run, &silent);
    ASSERT_EQ(end.end().outcome(), v1::AttemptEnd::SUCCEEDED) << end.ShortDebugString();
    answers[run == &of_checkpoint] =
        ReadFile(run->work_dir() + "/" + end.result_dir() + "/predictions.jsonl").value();
  }
  // Merging rounds.
  if (!merged) EXPECT_EQ(answers[0], answers[1]);
  if (merged) return;

  internal::Run on = ToyTraining(result, dataset_, absl::StrCat("output: ADAPTER ", phases));
  on.set_base_dir(model_);
  RecordingSink on_sink;
  const internal::Ended end = RunAttempt(on, &on_sink);
  ASSERT_EQ(end.end().outcome(), v1::AttemptEnd::SUCCEEDED) << end.ShortDebugString();
  EXPECT_LT(MeanLoss(on_sink, false), MeanLoss(sink, false));

  on = ToyTraining(result, dataset_, absl::StrCat("output: MERGED ", phases));
  on.set_base_dir(model_);
  EXPECT_THAT(RunAttempt(on, &silent).end().ShortDebugString(), HasSubstr("no change of weights"));
}

INSTANTIATE_TEST_SUITE_P(Kinds, PlacedPartTraining, ::testing::ValuesIn(kKinds),
                         [](const auto& info) { return std::string(info.param.name); });

struct WriterCase {
  const char *model, *part;
};

class PlacedPartWriting : public ::testing::TestWithParam<WriterCase> {};

// A language model with the part trains, is evaluated, writes and scores.
TEST_P(PlacedPartWriting, TrainsWritesAndScores) {
  const std::string model = MakeToyWriter(FreshDirectory("writer"), GetParam().model, 0.1),
                    texts = MakeToyTexts(FreshDirectory("texts"), 40, 5);
  const bool encodes = std::string(GetParam().model) == "t5";
  const internal::Run training = ToyTraining(
      model, texts,
      absl::StrCat(encodes ? "sequence_to_sequence {} " : "completion {} ", "added_part { ",
                   GetParam().part, " } output: ADAPTER validation_fraction: 0.2 ",
                   "phases { selector { kind: ADDED_PARTS } learning_rate: 0.01 steps: 12 } "));
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(training, &sink);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  std::vector<std::string> works = {
      "generate { prompt_column: \"prompt\" max_new_tokens: 6 }",
      "score { prompt_column: \"prompt\" completion_column: \"completion\" }"};
  if (!encodes) works.push_back("embed { text_column: \"text\" }");
  for (const std::string& work : works) {
    internal::Run prediction =
        ToyPrediction(training.work_dir() + "/" + ended.result_dir(), texts, "");
    ASSERT_TRUE(google::protobuf::TextFormat::MergeFromString(
        work + " dataset: \"dataset\"",
        prediction.mutable_assignment()->mutable_spec()->mutable_prediction()))
        << work;
    prediction.set_base_dir(model);
    const internal::Ended end = RunAttempt(prediction, &sink);
    ASSERT_EQ(end.end().outcome(), v1::AttemptEnd::SUCCEEDED) << end.ShortDebugString();
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, PlacedPartWriting,
    ::testing::Values(WriterCase{"gpt2", "prompt_tuning { virtual_tokens: 4 }"},
                      WriterCase{"gpt2", "prefix_tuning { virtual_tokens: 4 }"},
                      WriterCase{"llama", "prompt_tuning { virtual_tokens: 4 }"},
                      WriterCase{"llama", "prefix_tuning { virtual_tokens: 4 }"},
                      WriterCase{"llama", "bottleneck { place: PFEIFFER reduction: 4 scale: 1 }"},
                      WriterCase{"t5", "prompt_tuning { virtual_tokens: 4 }"},
                      WriterCase{"t5", "prefix_tuning { virtual_tokens: 4 }"}));

}  // namespace
}  // namespace thaw
