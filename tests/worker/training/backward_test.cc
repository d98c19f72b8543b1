// A model that reads backward is given every text last token first, and says what it says of the
// text as it stands; what would write or score text left to right is refused.
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "tests/worker/training/toy_job.h"
#include "worker/model/tensor_view.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

constexpr char kBackwardStep[] =
    " validation_fraction: 0 phases { selector { everything: true } learning_rate: 0.01 steps: 1 }";

// The same weights, read in this direction.
std::string WithDirection(const std::string& model, bool backward) {
  const std::string directory = FreshDirectory("model");
  for (const char* file : {"model.safetensors", "tokenizer.json", "tokenizer_config.json"}) {
    EXPECT_TRUE(WriteFileAtomically(directory + "/" + file, *ReadFile(model + "/" + file)).ok());
  }
  nlohmann::json config = *ReadJsonFile(model + "/config.json");
  config["reads_backward"] = backward;
  EXPECT_TRUE(WriteFileAtomically(directory + "/config.json", config.dump()).ok());
  return directory;
}

// What a training of one step leaves.
std::string Trained(const std::string& dataset, const std::string& task) {
  const internal::Run run = ToyTraining(MakeToyLstm(FreshDirectory("model"), 0), dataset,
                                        absl::StrCat(task, kBackwardStep));
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  return run.work_dir() + "/result";
}

internal::Run Predict(const std::string& model, const std::string& prediction) {
  internal::Run run = ToyPrediction(model, "", "");
  v1::Prediction* spec = run.mutable_assignment()->mutable_spec()->mutable_prediction();
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(prediction, spec)) << prediction;
  return run;
}

// The file that a prediction leaves.
std::string Answer(const std::string& model, const std::string& prediction, const char* file) {
  const internal::Run run = Predict(model, prediction);
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  return *ReadFile(run.work_dir() + "/result/" + file);
}

TEST(BackwardModels, ClassifyAndEmbedTextsFromTheirEnd) {
  const std::string model = Trained(MakeToyDataset(FreshDirectory("dataset"), 30, 5), "");
  for (const auto& [task, file] : {std::pair("classify {}", "predictions.jsonl"),
                                   {"embed { pooling: LAST }", "embeddings.safetensors"},
                                   {"embed { pooling: MAX }", "embeddings.safetensors"}}) {
    const std::string as_it_stands =
        absl::StrCat(task, R"( texts { values: "w1 w2 w3 w4" values: "w5 w1 w6" })");
    const std::string turned =
        absl::StrCat(task, R"( texts { values: "w4 w3 w2 w1" values: "w6 w1 w5" })");
    const std::string backward = Answer(WithDirection(model, true), as_it_stands, file);
    EXPECT_EQ(backward, Answer(WithDirection(model, false), turned, file)) << task;
    EXPECT_NE(backward, Answer(WithDirection(model, false), as_it_stands, file)) << task;
  }
}

TEST(BackwardModels, AreTrainedOnTextsFromTheirEnd) {
  const std::string forward = FreshDirectory("dataset"), turned = FreshDirectory("dataset");
  std::string lines, turned_lines;
  for (int i = 0; i < 20; ++i) {
    const std::string label = i % 2 == 0 ? "a" : "b";
    lines += absl::StrCat(R"({"text":"w)", i, " w", i + 1, " w", i + 3, R"(","label":")", label,
                          "\"}\n");
    turned_lines += absl::StrCat(R"({"text":"w)", i + 3, " w", i + 1, " w", i, R"(","label":")",
                                 label, "\"}\n");
  }
  ASSERT_TRUE(WriteFileAtomically(forward + "/data.jsonl", lines).ok());
  ASSERT_TRUE(WriteFileAtomically(turned + "/data.jsonl", turned_lines).ok());
  for (const char* task : {"", "language_modeling { layout: PER_DOCUMENT }",
                           "language_modeling { layout: CONTIGUOUS } max_length: 5"}) {
    const auto weights = [&](const std::string& dataset, bool backward) {
      const std::string model = MakeToyLstm(FreshDirectory("model"), 0);
      nlohmann::json config = *ReadJsonFile(model + "/config.json");
      config["reads_backward"] = backward;
      EXPECT_TRUE(WriteFileAtomically(model + "/config.json", config.dump()).ok());
      const internal::Run run = ToyTraining(model, dataset, absl::StrCat(task, kBackwardStep));
      RecordingSink sink;
      EXPECT_EQ(RunAttempt(run, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
      return ResultWeights(run);
    };
    EXPECT_EQ(weights(forward, true), weights(turned, false)) << task;
    EXPECT_NE(weights(forward, true), weights(forward, false)) << task;
  }
}

TEST(BackwardModels, NeitherWriteNorScoreNorLearnToAnswer) {
  const std::string dataset = MakeToyTexts(FreshDirectory("dataset"), 20, 3);
  const std::string model = WithDirection(Trained(dataset, "language_modeling {}"), true);
  for (const char* task :
       {R"(generate {} texts { values: "w1 w2" })", R"(score {} texts { values: "w1 w2" })"}) {
    RecordingSink sink;
    const v1::AttemptEnd end = RunAttempt(Predict(model, task), &sink).end();
    EXPECT_EQ(end.failure().blame(), v1::Failure::USER) << task;
    EXPECT_THAT(end.failure().message(),
                HasSubstr("give a language model that reads left to right"))
        << task;
  }
  for (const char* task : {"completion {}", "completion { messages_column: 'messages' }"}) {
    RecordingSink sink;
    const v1::AttemptEnd end =
        RunAttempt(ToyTraining(model, dataset, absl::StrCat(task, kBackwardStep)), &sink).end();
    EXPECT_EQ(end.failure().blame(), v1::Failure::USER) << task;
    EXPECT_THAT(end.failure().message(), HasSubstr("cannot learn this task")) << task;
  }
}

}  // namespace
}  // namespace thaw
