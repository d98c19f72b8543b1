#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_split.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "tests/worker/training/toy_job.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

class PredictionTest : public ::testing::Test {
 protected:
  PredictionTest() : model_(MakeToyModel(FreshDirectory("model"), 0.1)) {}

  std::vector<nlohmann::json> Lines(const internal::Run& run) {
    const auto text = ReadFile(run.work_dir() + "/result/predictions.jsonl");
    EXPECT_TRUE(text.ok()) << text.status();
    std::vector<nlohmann::json> lines;
    for (const absl::string_view line : absl::StrSplit(*text, '\n', absl::SkipEmpty())) {
      lines.push_back(*ParseJson(line));
    }
    return lines;
  }

  std::string Dataset(const std::string& text) {
    const std::string directory = FreshDirectory("dataset");
    EXPECT_TRUE(WriteFileAtomically(directory + "/rows.jsonl", text).ok());
    return directory;
  }

  const std::string model_;  // labels LABEL_0, LABEL_1, LABEL_2
};

TEST_F(PredictionTest, AnswersInInputOrderWhateverTheLengths) {
  const std::vector<std::string> texts = {"w1 w2", "w3 w4 w5 w6 w7 w8 w9 w10", "w11",
                                          "w12 w13 w14"};
  internal::Run run = ToyPrediction(model_, "", "");
  auto* values = run.mutable_assignment()->mutable_spec()->mutable_prediction()->mutable_texts();
  for (const std::string& text : texts) values->add_values(text);
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(run, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  const std::vector<nlohmann::json> lines = Lines(run);
  ASSERT_THAT(lines, SizeIs(4));
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(lines[i]["row"], i);
    double sum = 0, highest = 0;
    for (const auto& [label, score] : lines[i]["scores"].items()) {
      sum += score.get<double>();
      highest = std::max(highest, score.get<double>());
    }
    EXPECT_NEAR(sum, 1, 1e-9);
    EXPECT_EQ(lines[i]["score"], highest);
    EXPECT_EQ(lines[i]["scores"][lines[i]["label"].get<std::string>()], highest);
    EXPECT_THAT(lines[i]["logits"], SizeIs(3));
    // Alone, the text gets the same answer.
    internal::Run alone = ToyPrediction(model_, "", "");
    alone.mutable_assignment()->mutable_spec()->mutable_prediction()->mutable_texts()->add_values(
        texts[i]);
    RunAttempt(alone, &sink);
    const nlohmann::json line = Lines(alone)[0];
    for (int j = 0; j < 3; ++j) {
      EXPECT_NEAR(line["logits"][j].get<double>(), lines[i]["logits"][j].get<double>(), 1e-5);
    }
  }
  EXPECT_EQ(sink.progress.rows_total(), 1);
}

TEST_F(PredictionTest, LabelledRowsAreScored) {
  const std::string rows =
      "{\"text\":\"w1 w2\",\"label\":\"LABEL_0\"}\n{\"text\":\"w3\",\"label\":\"LABEL_2\"}\n";
  const internal::Run run = ToyPrediction(model_, Dataset(rows), "");
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  const std::vector<nlohmann::json> lines = Lines(run);
  const double hits = (lines[0]["label"] == "LABEL_0") + (lines[1]["label"] == "LABEL_2");
  EXPECT_EQ(ended.metrics().at("accuracy"), hits / 2);
  const double loss = -(std::log(lines[0]["scores"]["LABEL_0"].get<double>()) +
                        std::log(lines[1]["scores"]["LABEL_2"].get<double>())) /
                      2;
  EXPECT_NEAR(ended.metrics().at("loss"), loss, 1e-9);
  EXPECT_TRUE(ended.metrics().contains("macro_f1"));
  const std::vector<std::string> told = sink.LogLines();
  ASSERT_EQ(told.size(), 3u);
  EXPECT_THAT(told[0], HasSubstr("model loaded in "));
  EXPECT_THAT(told[1], HasSubstr("rows read: 2"));
  EXPECT_THAT(told[2], HasSubstr("result written: 2 answers"));
}

TEST_F(PredictionTest, UnknownOrMissingLabelsAreNoObstacle) {
  for (const char* const rows : {"{\"text\":\"w1\",\"label\":\"other\"}\n", "{\"text\":\"w1\"}\n",
                                 "{\"text\":\"w1\",\"label\":\"LABEL_0\"}\n{\"text\":\"w2\"}\n"}) {
    const internal::Run run = ToyPrediction(model_, Dataset(rows), "");
    RecordingSink sink;
    const internal::Ended ended = RunAttempt(run, &sink);
    EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << rows;
    EXPECT_FALSE(ended.metrics().contains("accuracy")) << rows;
  }
}

TEST_F(PredictionTest, FailsWithBlame) {
  RecordingSink sink;
  const internal::Ended bad = RunAttempt(
      ToyPrediction(model_, Dataset("{\"text\":\"w1\"}\n{\"body\":\"w1\"}\n"), ""), &sink);
  EXPECT_EQ(bad.end().failure().blame(), v1::Failure::DATA);
  EXPECT_THAT(bad.end().failure().message(), HasSubstr("line 2"));
  const internal::Ended empty = RunAttempt(ToyPrediction(model_, Dataset(""), ""), &sink);
  EXPECT_EQ(empty.end().failure().blame(), v1::Failure::DATA);
}

TEST_F(PredictionTest, StopsAndPauses) {
  for (const bool pause : {true, false}) {
    Control control;
    pause ? control.RequestPause() : control.RequestStop();
    RecordingSink sink;
    const internal::Run run =
        ToyPrediction(model_, MakeToyDataset(FreshDirectory("dataset"), 50, 1), "");
    EXPECT_EQ(RunAttempt(run, &sink, &control).end().outcome(),
              pause ? v1::AttemptEnd::PAUSED : v1::AttemptEnd::STOPPED);
    EXPECT_THAT(sink.checkpoints, SizeIs(0));
  }
}

}  // namespace
}  // namespace thaw
