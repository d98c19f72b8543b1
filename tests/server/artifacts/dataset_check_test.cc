#include "server/artifacts/dataset_check.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/dataset/dataset_columns.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"

namespace thaw {
namespace {

TEST(DatasetCheckTest, AReportIsBoundedAndCountsTheRest) {
  const TempDir directory;
  std::string bad;
  for (int i = 0; i < 10'000; ++i) bad += "x\n";
  ASSERT_TRUE(WriteFileAtomically(directory.path() + "/data.jsonl", bad).ok());
  v1::Artifact dataset;
  dataset.add_files()->set_path("data.jsonl");
  dataset.mutable_dataset()->set_text_column("text");
  dataset.mutable_dataset()->set_label_column("label");
  const std::string report = directory.path() + "/report";
  ASSERT_TRUE(CheckDataset(directory.path(), report, &dataset, /*max_report_bytes=*/10'000).ok());
  EXPECT_EQ(dataset.state(), v1::Artifact::REJECTED);
  EXPECT_EQ(dataset.dataset().bad_lines(), 10'000);
  EXPECT_LT(ReadFile(report)->size(), 11'000u);
  std::vector<v1::DatasetIssue> issues;
  ASSERT_TRUE(ReadDatasetReport(report, [&](const v1::DatasetIssue& issue) {
                issues.push_back(issue);
                return true;
              }).ok());
  EXPECT_EQ(issues.front().line(), 1);
  EXPECT_EQ(issues.back().line(), 10'000);
  EXPECT_THAT(issues.back().reason(),
              ::testing::HasSubstr(absl::StrCat(10'000 - (issues.size() - 1), " more")));
}

// The dataset of `content` as it is after the check.
v1::Artifact Checked(const std::string& content, const v1::DatasetColumns& columns,
                     const std::string& file = "data.jsonl") {
  const TempDir directory;
  EXPECT_TRUE(WriteFileAtomically(directory.path() + "/" + file, content).ok());
  v1::Artifact dataset;
  dataset.add_files()->set_path(file);
  CopyColumns(columns, dataset.mutable_dataset());
  EXPECT_TRUE(CheckDataset(directory.path(), directory.path() + "/report", &dataset).ok());
  return dataset;
}

v1::DatasetColumns TaskColumns(v1::DatasetSummary::Task task) {
  v1::DatasetColumns columns;
  columns.set_task(task);
  return columns;
}

TEST(DatasetCheckTest, ReadsTheRowsOfEveryTask) {
  using Rows = v1::DatasetSummary;
  const v1::Artifact tags = Checked(
      "{\"text\":\"t\",\"label\":[\"b\",\"a\"]}\n"
      "{\"text\":\"u\",\"label\":[]}\n",
      TaskColumns(Rows::MULTI_LABEL));
  EXPECT_EQ(tags.state(), v1::Artifact::READY);
  EXPECT_EQ(tags.dataset().labels_size(), 2);
  EXPECT_EQ(tags.dataset().rows_without_labels(), 1);

  const v1::Artifact stars =
      Checked("{\"text\":\"t\",\"label\":-1}\n{\"text\":\"u\",\"label\":5}\n",
              TaskColumns(Rows::REGRESSION));
  EXPECT_EQ(stars.dataset().target_column(), "label");
  EXPECT_EQ(stars.dataset().least_target(), -1);
  EXPECT_EQ(stars.dataset().greatest_target(), 5);

  const v1::Artifact texts = Checked("{\"text\":\"t\"}\n", TaskColumns(Rows::LANGUAGE_MODELING));
  EXPECT_EQ(texts.state(), v1::Artifact::READY);
  EXPECT_EQ(texts.dataset().unlabelled_rows(), 0);

  const v1::Artifact prompts =
      Checked("{\"prompt\":\"p\",\"completion\":\"c\"}\n", TaskColumns(Rows::COMPLETION));
  EXPECT_EQ(prompts.state(), v1::Artifact::READY);
  EXPECT_EQ(prompts.dataset().completion_column(), "completion");
  const v1::Artifact chats = Checked(
      "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":"
      "\"a\"}]}\n",
      TaskColumns(Rows::COMPLETION));
  EXPECT_EQ(chats.state(), v1::Artifact::READY);
  EXPECT_EQ(chats.dataset().messages_column(), "messages");
  EXPECT_EQ(chats.dataset().prompt_column(), "");
}

TEST(DatasetCheckTest, ReadsEveryFormat) {
  using Rows = v1::DatasetSummary;
  const v1::Artifact csv =
      Checked("review,stars,class\r\n\"so, so\",3,mixed\r\nfine,5,good\r\n", {}, "data.csv");
  EXPECT_EQ(csv.state(), v1::Artifact::READY) << csv.state_reason();
  EXPECT_EQ(csv.dataset().format(), Rows::CSV);
  EXPECT_EQ(csv.dataset().text_column(), "review");
  EXPECT_EQ(csv.dataset().label_column(), "class");
  EXPECT_EQ(csv.dataset().rows(), 2);
  EXPECT_EQ(csv.dataset().labels_size(), 2);
  EXPECT_EQ(csv.dataset().characters().max(), 6);
  EXPECT_EQ(csv.dataset().characters().p50(), 4);
  // Without labels: for prediction, as plain text always is.
  const v1::Artifact tsv = Checked("id\ttext\n1\tx\n", {}, "data.tsv");
  EXPECT_EQ(tsv.state(), v1::Artifact::READY) << tsv.state_reason();
  EXPECT_EQ(tsv.dataset().unlabelled_rows(), 1);
  const v1::Artifact text = Checked("one\n\ntwo\n", {}, "data.txt");
  EXPECT_EQ(text.state(), v1::Artifact::READY) << text.state_reason();
  EXPECT_EQ(text.dataset().rows(), 2);
  const v1::Artifact corpus = Checked("one\n", TaskColumns(Rows::LANGUAGE_MODELING), "data.txt");
  EXPECT_EQ(corpus.dataset().unlabelled_rows(), 0);
  // What is given goes before the ending.
  v1::DatasetColumns given;
  given.set_format(Rows::TSV);
  EXPECT_EQ(Checked("text\tlabel\nx\ta\ny\tb\n", given, "data.csv").dataset().labels_size(), 2);
  const v1::Artifact empty = Checked("text,label\n", {}, "data.csv");
  EXPECT_EQ(empty.state(), v1::Artifact::REJECTED);
}

TEST(DatasetCheckTest, ReportsSayWhatToDo) {
  const TempDir directory;
  ASSERT_TRUE(WriteFileAtomically(directory.path() + "/data.csv", "text,label\nx,a\ny\n").ok());
  v1::Artifact dataset;
  dataset.add_files()->set_path("data.csv");
  const std::string report = directory.path() + "/report";
  ASSERT_TRUE(CheckDataset(directory.path(), report, &dataset).ok());
  EXPECT_EQ(dataset.state(), v1::Artifact::REJECTED);
  EXPECT_THAT(dataset.state_reason(), ::testing::HasSubstr("1 of 2 rows"));
  std::vector<v1::DatasetIssue> issues;
  ASSERT_TRUE(ReadDatasetReport(report, [&](const v1::DatasetIssue& issue) {
                issues.push_back(issue);
                return true;
              }).ok());
  ASSERT_EQ(issues.size(), 1u);
  EXPECT_EQ(issues[0].path(), "data.csv");
  EXPECT_EQ(issues[0].line(), 3);
  EXPECT_EQ(issues[0].byte_offset(), 15);
  EXPECT_THAT(issues[0].reason(), ::testing::HasSubstr("has 1 field"));
  EXPECT_THAT(issues[0].remedy(), ::testing::HasSubstr("give every column a field"));
}

TEST(DatasetCheckTest, RowsWithoutAnswersServeForPrediction) {
  using Rows = v1::DatasetSummary;
  for (const auto& [task, content] : std::vector<std::pair<Rows::Task, std::string>>{
           {Rows::CLASSIFICATION, "{\"text\":\"t\"}\n"},
           {Rows::MULTI_LABEL, "{\"text\":\"t\"}\n"},
           {Rows::REGRESSION, "{\"text\":\"t\"}\n"},
           {Rows::COMPLETION, "{\"prompt\":\"t\"}\n"},
           {Rows::COMPLETION, "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]}\n"},
           {Rows::SEQUENCE_TO_SEQUENCE, "{\"source\":\"t\"}\n"}}) {
    const v1::Artifact dataset = Checked(content, TaskColumns(task));
    EXPECT_EQ(dataset.state(), v1::Artifact::READY) << content;
    EXPECT_EQ(dataset.dataset().rows(), 1);
    EXPECT_EQ(dataset.dataset().unlabelled_rows(), 1);
  }
  const v1::Artifact half = Checked("{\"prompt\":\"t\"}\n{\"prompt\":\"t\",\"completion\":\"c\"}\n",
                                    TaskColumns(Rows::COMPLETION));
  EXPECT_EQ(half.state(), v1::Artifact::REJECTED);
}

}  // namespace
}  // namespace thaw
