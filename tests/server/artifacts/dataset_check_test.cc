#include "server/artifacts/dataset_check.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
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

}  // namespace
}  // namespace thaw
