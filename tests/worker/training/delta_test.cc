// Results of form DELTA: the same model in fewer bytes.
#include "common/delta/delta.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "common/base/files.h"
#include "tests/worker/training/toy_job.h"
#include "worker/model/model.h"

namespace thaw {
namespace {

constexpr char kTopOnly[] =
    "validation_fraction: 0 phases { selector { last_blocks: 1 } learning_rate: 0.005 steps: 4 } ";

class DeltaResultTest : public ::testing::Test {
 protected:
  DeltaResultTest()
      : model_(MakeToyModel(FreshDirectory("model"), 0.1)),
        dataset_(MakeToyDataset(FreshDirectory("dataset"), 60, 5)) {}

  // A training of `run` whose result must come; gives its directory.
  std::string Trained(const internal::Run& run) {
    RecordingSink sink;
    const internal::Ended ended = RunAttempt(run, &sink);
    EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
    return run.work_dir() + "/" + ended.result_dir();
  }
  std::string Trained(const std::string& training) {
    return Trained(ToyTraining(model_, dataset_, training));
  }
  internal::Run OnDelta(internal::Run run) {
    run.set_base_dir(model_);
    run.mutable_assignment()->mutable_base()->set_digest("digest of the base");
    return run;
  }
  // The model.safetensors that a delta stands for.
  std::string Rebuilt(const std::string& delta) {
    const std::string directory = FreshDirectory("rebuilt");
    const absl::Status status = RebuildWeights(delta, model_, directory + "/model.safetensors");
    EXPECT_TRUE(status.ok()) << status;
    return *ReadFile(directory + "/model.safetensors");
  }

  const std::string model_, dataset_;
};

TEST_F(DeltaResultTest, HoldsWhatWasTrainedAndStandsForTheSameModel) {
  const std::string full = Trained(kTopOnly),
                    delta = Trained(std::string(kTopOnly) + "output: DELTA");
  EXPECT_FALSE(Exists(delta + "/model.safetensors"));
  for (const char* name : {"/config.json", "/tokenizer.json"}) {
    EXPECT_EQ(*ReadFile(delta + name), *ReadFile(full + name)) << name;
  }
  EXPECT_EQ(Rebuilt(delta), *ReadFile(full + "/model.safetensors"));
  const auto own = SafetensorsFile::Open(delta + "/delta.safetensors");
  ASSERT_TRUE(own.ok()) << own.status();
  for (const TensorInfo& tensor : (*own)->tensors()) {
    EXPECT_THAT(tensor.name, ::testing::ContainsRegex("layer.2|pooler|classifier"));
  }
}

TEST_F(DeltaResultTest, IsAModelToPredictWithAndToGoOnFrom) {
  const std::string full = Trained(kTopOnly),
                    delta = Trained(std::string(kTopOnly) + "output: DELTA");
  const auto answers = [&](const internal::Run& run) {
    return *ReadFile(Trained(run) + "/predictions.jsonl");
  };
  EXPECT_EQ(answers(OnDelta(ToyPrediction(delta, dataset_, "classify {}"))),
            answers(ToyPrediction(full, dataset_, "classify {}")));

  // Another round, of which the delta is against the first base again.
  const std::string more =
      "validation_fraction: 0 phases { selector { head_only: true } "
      "learning_rate: 0.005 steps: 3 } ";
  const std::string full_again = Trained(ToyTraining(full, dataset_, more));
  const std::string delta_again =
      Trained(OnDelta(ToyTraining(delta, dataset_, more + "output: DELTA")));
  EXPECT_EQ(Rebuilt(delta_again), *ReadFile(full_again + "/model.safetensors"));
  EXPECT_EQ(*DeltaBaseDigest(delta_again), "digest of the base");
  EXPECT_EQ(*ReadFile(Trained(OnDelta(ToyTraining(delta, dataset_, more))) + "/model.safetensors"),
            *ReadFile(full_again + "/model.safetensors"));
}

// Files may hold a tied table twice. Both copies are the base's, and stay two under their own names
// however often what is made of them is trained on.
TEST(DeltaOfTiedWeights, KeepsItsCopiesApart) {
  const std::string base = MakeToyWriter(FreshDirectory("writer"), "gpt2", 0);
  {
    const auto file = SafetensorsFile::Open(base + "/model.safetensors");
    ASSERT_TRUE(file.ok()) << file.status();
    std::vector<TensorToWrite> tensors;
    for (const TensorInfo& info : (*file)->tensors()) {
      tensors.push_back({info.name, info.type, info.shape, (*file)->Data(info)});
      if (info.name == "transformer.wte.weight") {
        tensors.push_back(tensors.back());
        tensors.back().name = "lm_head.weight";
      }
    }
    ASSERT_EQ(tensors.size(), (*file)->tensors().size() + 1);
    ASSERT_TRUE(WriteSafetensors(base + "/model.safetensors", tensors).ok());
  }
  const std::string texts = MakeToyTexts(FreshDirectory("texts"), 40, 3);
  std::string model = base;
  for (int round = 0; round < 3; ++round) {
    internal::Run run =
        ToyTraining(model, texts,
                    "language_modeling {} validation_fraction: 0 output: DELTA phases { selector { "
                    "name_pattern: \".*h.0.mlp.*\" } learning_rate: 0.001 steps: 2 }");
    if (round > 0) run.set_base_dir(base);
    RecordingSink sink;
    const internal::Ended ended = RunAttempt(run, &sink);
    ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED)
        << round << ": " << ended.ShortDebugString();
    model = run.work_dir() + "/result";
    const auto own = SafetensorsFile::Open(model + "/delta.safetensors");
    EXPECT_EQ((*own)->tensors().size(), 4u) << round;
    const auto tensors = OpenDelta(model, base);
    ASSERT_TRUE(tensors.ok()) << tensors.status();
    EXPECT_EQ(std::count_if(tensors->begin(), tensors->end(),
                            [](const TensorOfModel& one) { return one.name == "lm_head.weight"; }),
              1);
  }
}

// What was trained and is the base's again, half precision too, is the base's bytes.
TEST_F(DeltaResultTest, WhatIsRestoredIsNotStored) {
  const std::string delta = Trained(
      "validation_fraction: 0.3 evaluation { every_epochs: 1 metric: LOSS } output: DELTA "
      "phases { selector { head_only: true } learning_rate: 0.001 epochs: 1 } "
      "phases { selector { last_blocks: 3 } learning_rate: 0.9 epochs: 1 } "
      "phases { selector { head_only: true } learning_rate: 1e-5 epochs: 2 restore_best: true }");
  const auto own = SafetensorsFile::Open(delta + "/delta.safetensors");
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_EQ((*own)->Find("bert.encoder.layer.2.output.dense.weight"), nullptr);
  EXPECT_NE((*own)->Find("classifier.weight"), nullptr);
}

TEST_F(DeltaResultTest, AnotherTokenizerChangesTheTablesAlone) {
  const std::string words = MakeToyTokenizer(FreshDirectory("tokenizer"), {"w3", "new", "w1"});
  const auto run = [&](const std::string& output) {
    internal::Run made = ToyTraining(model_, dataset_, kTopOnly + output);
    made.set_tokenizer_dir(words);
    return made;
  };
  const std::string full = Trained(run("")), delta = Trained(run("output: DELTA"));
  EXPECT_EQ(Rebuilt(delta), *ReadFile(full + "/model.safetensors"));
  const auto own = SafetensorsFile::Open(delta + "/delta.safetensors");
  EXPECT_NE((*own)->Find("bert.embeddings.word_embeddings.weight"), nullptr);
  EXPECT_EQ((*own)->Find("bert.encoder.layer.0.output.dense.weight"), nullptr);
}

}  // namespace
}  // namespace thaw
