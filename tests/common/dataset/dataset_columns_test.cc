#include "common/dataset/dataset_columns.h"

#include <unistd.h>

#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;
using Rows = v1::DatasetSummary;

std::string ColumnsFile(const std::string& contents, const std::string& ending) {
  static int files = 0;
  const std::string path = testing::TempDir() + "/columns_" + std::to_string(getpid()) + "_" +
                           std::to_string(files++) + ending;
  std::ofstream(path, std::ios::binary) << contents;
  return path;
}

v1::DatasetColumns Resolved(const std::string& contents, v1::DatasetColumns columns,
                            const std::string& ending = ".jsonl") {
  const auto resolved = ResolveColumns(ColumnsFile(contents, ending), columns);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  return *resolved;
}

v1::DatasetColumns OfTask(Rows::Task task) {
  v1::DatasetColumns columns;
  columns.set_task(task);
  return columns;
}

TEST(DatasetColumnsTest, FindsColumnsByConvention) {
  struct Case {
    std::string contents;
    std::string text;
    std::string label;
  };
  for (const Case& one : std::vector<Case>{
           {"{\"text\":\"t\",\"label\":1}\n", "text", "label"},
           {"{\"id\":7,\"review\":\"t\",\"sentiment\":\"good\"}\n", "review", "sentiment"},
           // The usual name goes before others, and two others are one too many.
           {"{\"text\":\"t\",\"review\":\"u\",\"class\":1}\n", "text", "class"},
           {"{\"sentence\":\"t\",\"review\":\"u\",\"class\":1,\"topic\":2}\n", "text", "label"},
           {"{\"Review\":\"t\"}\n", "text", "label"},
           {"\n{\"content\":\"t\",\"label\":1}\n", "content", "label"},
           {"not JSON", "text", "label"},
           {"", "text", "label"}}) {
    const v1::DatasetColumns columns = Resolved(one.contents, {});
    EXPECT_EQ(columns.text_column(), one.text) << one.contents;
    EXPECT_EQ(columns.label_column(), one.label) << one.contents;
    EXPECT_EQ(columns.text_pair_column(), "");
    EXPECT_EQ(columns.task(), Rows::CLASSIFICATION);
    EXPECT_EQ(columns.format(), Rows::JSONL);
  }
  // What is given is never looked for, and no column is taken twice.
  v1::DatasetColumns given;
  given.set_label_column("review");
  const v1::DatasetColumns kept = Resolved("review,x\n", given, ".csv");
  EXPECT_EQ(kept.label_column(), "review");
  EXPECT_EQ(kept.text_column(), "text");
  EXPECT_EQ(kept.format(), Rows::CSV);

  const v1::DatasetColumns stars =
      Resolved("sentence\tscore\nt\t1\n", OfTask(Rows::REGRESSION), ".tsv");
  EXPECT_EQ(stars.text_column(), "sentence");
  EXPECT_EQ(stars.target_column(), "score");
  const v1::DatasetColumns pairs =
      Resolved("\xEF\xBB\xBF\"instruction\",\"output\"\na,b\n", OfTask(Rows::COMPLETION), ".csv");
  EXPECT_EQ(pairs.prompt_column(), "instruction");
  EXPECT_EQ(pairs.completion_column(), "output");
}

TEST(DatasetColumnsTest, TellsConversationsByTheFirstRow) {
  for (const auto& [contents, messages] : std::vector<std::pair<std::string, std::string>>{
           {"\n{\"messages\":[]}\n", "messages"},
           {"{\"messages\":[],\"prompt\":\"p\"}\n", ""},
           {"{\"prompt\":\"p\"}\n{\"messages\":[]}\n", ""},
           {"{\"messages\":", ""},
           {"", ""},
           {std::string("{\"messages\":\0", 13), ""}}) {
    const v1::DatasetColumns columns = Resolved(contents, OfTask(Rows::COMPLETION));
    EXPECT_EQ(columns.messages_column(), messages) << contents;
    EXPECT_EQ(columns.prompt_column(), messages.empty() ? "prompt" : "") << contents;
  }
}

TEST(DatasetColumnsTest, TheFormatIsThatOfTheEndingUnlessGiven) {
  EXPECT_EQ(FormatOf({}, "a.b.jsonl"), Rows::JSONL);
  EXPECT_EQ(FormatOf({}, "data.csv"), Rows::CSV);
  EXPECT_EQ(FormatOf({}, "data.tsv"), Rows::TSV);
  EXPECT_EQ(FormatOf({}, "data.txt"), Rows::TEXT);
  EXPECT_EQ(FormatOf({}, "data.json"), Rows::FORMAT_UNSPECIFIED);
  EXPECT_EQ(FormatOf(Rows::TSV, "data.csv"), Rows::TSV);
}

TEST(DatasetColumnsTest, RefusesWhatAFormatCannotHold) {
  const auto complaint = [](const v1::DatasetColumns& columns, Rows::Format format) {
    const std::vector<FieldViolation> violations = ViolationsIn(columns, format);
    return violations.empty() ? std::string()
                              : violations[0].field + " " + violations[0].description;
  };
  EXPECT_EQ(complaint({}, Rows::CSV), "");
  EXPECT_EQ(complaint({}, Rows::TEXT), "");
  EXPECT_EQ(complaint(OfTask(Rows::MULTI_LABEL), Rows::JSONL), "");
  EXPECT_THAT(complaint(OfTask(Rows::MULTI_LABEL), Rows::CSV),
              HasSubstr("columns.task is MULTI_LABEL, but a field of CSV holds no array"));
  v1::DatasetColumns chats = OfTask(Rows::COMPLETION);
  chats.set_messages_column("messages");
  EXPECT_THAT(complaint(chats, Rows::TSV), HasSubstr("columns.messages_column is set, but"));
  EXPECT_THAT(complaint(OfTask(Rows::SEQUENCE_TO_SEQUENCE), Rows::TEXT),
              HasSubstr("plain text has one column only"));
  v1::DatasetColumns renamed;
  renamed.set_text_column("review");
  EXPECT_EQ(complaint(renamed, Rows::CSV), "");
  EXPECT_THAT(complaint(renamed, Rows::TEXT), HasSubstr("is called \"text\""));
  v1::DatasetColumns labelled;
  labelled.set_label_column("label");
  EXPECT_THAT(complaint(labelled, Rows::TEXT),
              HasSubstr("columns.label_column is set, but plain text has the one column"));
  v1::DatasetColumns twice;
  twice.set_text_column("label");
  EXPECT_THAT(complaint(twice, Rows::CSV), HasSubstr("names the same column as text_column"));
  v1::DatasetColumns unknown;
  unknown.set_format(static_cast<Rows::Format>(9));
  EXPECT_THAT(complaint(unknown, Rows::JSONL), HasSubstr("columns.format 9 is not known"));
}

TEST(DatasetColumnsTest, KnowsADatasetOfTheSameColumns) {
  const v1::DatasetColumns columns = Resolved("review,stars\n", {}, ".csv");
  Rows summary;
  CopyColumns(columns, &summary);
  EXPECT_TRUE(SameColumns(columns, summary));
  EXPECT_EQ(ColumnsIn(summary).SerializeAsString(), columns.SerializeAsString());
  summary.set_format(Rows::TSV);
  EXPECT_FALSE(SameColumns(columns, summary));
  // From before there were tasks and formats.
  Rows old;
  old.set_text_column("text");
  old.set_label_column("label");
  EXPECT_TRUE(SameColumns(Resolved("{\"text\":\"t\",\"label\":1}\n", {}), old));
}

}  // namespace
}  // namespace thaw
