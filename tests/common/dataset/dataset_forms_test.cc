// The columns of every task: what is taken, what is refused and why.
#include <unistd.h>

#include <fstream>

#include "common/dataset/dataset_reader.h"
#include "common/dataset/dataset_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string FormFile(const std::string& contents) {
  static int files = 0;
  const std::string path = testing::TempDir() + "/forms_" + std::to_string(getpid()) + "_" +
                           std::to_string(files++) + ".jsonl";
  std::ofstream(path, std::ios::binary) << contents;
  return path;
}

const DatasetSchema kLabels = {.form = ExampleForm::kLabels};
const DatasetSchema kNumber = {.form = ExampleForm::kNumber};
const DatasetSchema kText = {.form = ExampleForm::kText};
const DatasetSchema kAnswer = {
    .text_column = "prompt", .label_column = "completion", .form = ExampleForm::kAnswer};
const DatasetSchema kConversation = {.text_column = "messages", .form = ExampleForm::kConversation};
const DatasetSchema kQuestion = {
    .text_column = "messages", .label_column = "", .form = ExampleForm::kConversation};

std::vector<DatasetIssue> IssuesOf(const std::string& contents, const DatasetSchema& schema,
                                   DatasetSummary* summary) {
  std::vector<DatasetIssue> issues;
  const absl::Status status = ScanDataset(
      FormFile(contents), schema, {},
      [&](const DatasetIssue& issue) {
        issues.push_back(issue);
        return absl::OkStatus();
      },
      summary);
  EXPECT_TRUE(status.ok()) << status;
  return issues;
}

std::vector<Example> ExamplesOf(const std::string& contents, const DatasetSchema& schema) {
  auto reader = DatasetReader::Open(FormFile(contents), schema);
  EXPECT_TRUE(reader.ok()) << reader.status();
  std::vector<Example> examples;
  Example example;
  while (true) {
    const auto more = (*reader)->Next(&example);
    EXPECT_TRUE(more.ok()) << more.status();
    if (!more.ok() || !*more) return examples;
    examples.push_back(example);
  }
}

TEST(DatasetFormsTest, ReadsWhatEachFormHolds) {
  const auto labels = ExamplesOf(
      "{\"text\":\"t\",\"label\":[\"b\",\"a\"]}\n{\"text\":\"u\",\"label\":[]}\n", kLabels);
  ASSERT_EQ(labels.size(), 2u);
  EXPECT_THAT(labels[0].labels, ElementsAre("b", "a"));
  EXPECT_TRUE(labels[1].labels.empty());
  EXPECT_EQ(labels[1].text, "u");

  const auto numbers = ExamplesOf(
      "{\"text\":\"t\",\"label\":-2}\n{\"text\":\"t\",\"label\":2.5e3}\n"
      "{\"text\":\"t\",\"label\":18446744073709551615}\n",
      kNumber);
  ASSERT_EQ(numbers.size(), 3u);
  EXPECT_EQ(numbers[0].number, -2);
  EXPECT_EQ(numbers[1].number, 2500);
  EXPECT_EQ(numbers[2].number, 18446744073709551615.0);

  EXPECT_EQ(ExamplesOf("{\"text\":\"a\\nb\",\"label\":null}\n", kText)[0].text, "a\nb");

  const auto answers = ExamplesOf("{\"prompt\":\"2+2=\",\"completion\":\" 4\"}\n", kAnswer);
  EXPECT_EQ(answers[0].text, "2+2=");
  EXPECT_EQ(answers[0].answer, " 4");

  const auto chats = ExamplesOf(
      "{\"messages\":[{\"role\":\"system\",\"content\":\"\"},{\"content\":\"hi\",\"role\":\"user\","
      "\"name\":[{\"role\":\"x\"}]},{\"role\":\"assistant\",\"content\":\"hello\"}]}\n",
      kConversation);
  ASSERT_EQ(chats[0].turns.size(), 3u);
  EXPECT_EQ(chats[0].turns[1].role, "user");
  EXPECT_EQ(chats[0].turns[1].content, "hi");
  EXPECT_EQ(chats[0].turns[2].role, "assistant");
  EXPECT_EQ(chats[0].turns[2].content, "hello");
}

TEST(DatasetFormsTest, SaysWhatIsWrongWithEachForm) {
  const auto chat = [](const std::string& turns) { return "{\"messages\":" + turns + "}\n"; };
  const std::string user = "{\"role\":\"user\",\"content\":\"q\"}";
  const std::string assistant = "{\"role\":\"assistant\",\"content\":\"a\"}";
  struct Case {
    DatasetSchema schema;
    std::string line;
    std::string field;
    std::string reason;
  };
  const std::vector<Case> cases = {
      {kLabels, "{\"text\":\"t\",\"label\":\"a\"}", "label", "is a string, must be an array"},
      {kLabels, "{\"text\":\"t\",\"label\":{}}", "label", "is an object, must be an array"},
      {kLabels, "{\"text\":\"t\",\"label\":[\"a\",1]}", "label[1]", "is an integer"},
      {kLabels, "{\"text\":\"t\",\"label\":[[\"a\"]]}", "label[0]", "is an array"},
      {kLabels, "{\"text\":\"t\",\"label\":[\"a\",\"a\"]}", "label[1]", "repeats"},
      {kLabels, "{\"text\":\"t\",\"label\":[\"\"]}", "label[0]", "is empty"},
      {kLabels, "{\"text\":\"t\"}", "label", "is missing"},
      {kNumber, "{\"text\":\"t\",\"label\":\"1\"}", "label", "is a string, must be a number"},
      {kNumber, "{\"text\":\"t\",\"label\":null}", "label", "is null, must be a number"},
      {kNumber, "{\"text\":\"t\",\"label\":1e999}", "", "too large"},
      {kText, "{\"label\":\"t\"}", "text", "is missing; it has \"label\""},
      {kAnswer, "{\"prompt\":\"p\",\"completion\":\" \"}", "completion", "is empty"},
      {kAnswer, "{\"prompt\":1,\"completion\":\"c\"}", "prompt", "is an integer"},
      {kConversation, chat("\"hi\""), "messages", "is a string, must be an array of objects"},
      {kConversation, chat("[]"), "messages", "is an empty conversation"},
      {kConversation, chat("[\"hi\"]"), "messages[0]", "is a string, must be an object"},
      {kConversation, chat("[{\"content\":\"x\"}]"), "messages[0].role", "is missing"},
      {kConversation, chat("[" + user + ",{\"role\":\"assistant\"}]"), "messages[1].content",
       "is missing"},
      {kConversation, chat("[{\"role\":\"bot\",\"content\":\"x\"}]"), "messages[0].role",
       "is \"bot\""},
      {kConversation, chat("[{\"role\":7,\"content\":\"x\"}]"), "messages[0].role",
       "is an integer"},
      {kConversation, chat("[{\"role\":\"user\",\"content\":[\"x\"]}]"), "messages[0].content",
       "is an array, must be a string"},
      {kConversation, chat("[" + user + ",{\"role\":\"assistant\",\"content\":\"\"}]"),
       "messages[1].content", "is empty"},
      {kConversation, chat("[" + user + ",{\"role\":\"system\",\"content\":\"\"}]"),
       "messages[1].role", "is the system's"},
      {kConversation, chat("[{\"role\":\"user\",\"role\":\"user\",\"content\":\"x\"}]"), "role",
       "occurs twice"},
      {kConversation, chat("[" + user + "]"), "messages", "no turn of the assistant"},
      {kConversation, chat("[" + assistant + "]"), "messages", "only turns of the assistant"},
      {kQuestion, chat("[" + assistant + "]"), "messages", "only turns of the assistant"},
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(one.line);
    DatasetSummary summary;
    const auto issues = IssuesOf(one.line + "\n", one.schema, &summary);
    ASSERT_EQ(issues.size(), 1u);
    EXPECT_EQ(issues[0].line, 1);
    EXPECT_EQ(issues[0].field, one.field);
    EXPECT_THAT(issues[0].reason, HasSubstr(one.reason));
    EXPECT_LE(issues[0].reason.size(), 300u);
    EXPECT_NE(issues[0].remedy, "");
    EXPECT_EQ(summary.bad_lines, 1);
    EXPECT_EQ(summary.examples, 0);
  }
}

TEST(DatasetFormsTest, TellsMissingAnswersFromBadOnes) {
  const auto unanswered = [](const std::string& contents, const DatasetSchema& schema) {
    DatasetSummary summary;
    IssuesOf(contents, schema, &summary);
    return summary.unanswered_lines;
  };
  const std::string question = "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]}\n";
  EXPECT_EQ(unanswered("{\"prompt\":\"p\"}\n{\"prompt\":\"q\",\"completion\":1}\n", kAnswer), 1);
  EXPECT_EQ(unanswered("{\"text\":\"p\"}\n{\"text\":\"q\"}\n", kNumber), 2);
  EXPECT_EQ(unanswered("{\"label\":[]}\n{}\n", kLabels), 1);
  EXPECT_EQ(unanswered(question, kConversation), 1);
  DatasetSummary summary;
  EXPECT_TRUE(IssuesOf(question, kQuestion, &summary).empty());
}

TEST(DatasetFormsTest, SummarizesWhatEachFormHolds) {
  DatasetSummary summary;
  EXPECT_TRUE(IssuesOf("{\"text\":\"t\",\"label\":[\"b\",\"a\"]}\n{\"text\":\"t\",\"label\":[]}\n"
                       "{\"text\":\"u\",\"label\":[\"b\"]}\n{\"text\":\"u\",\"label\":[\"b\"]}\n",
                       kLabels, &summary)
                  .empty());
  ASSERT_EQ(summary.labels.size(), 2u);
  EXPECT_EQ(summary.labels[0].label, "a");
  EXPECT_EQ(summary.labels[1].examples, 3);
  EXPECT_EQ(summary.without_labels, 1);
  EXPECT_EQ(summary.duplicates, 1);

  EXPECT_TRUE(
      IssuesOf("{\"text\":\"t\",\"label\":-2.5}\n{\"text\":\"t\",\"label\":7}\n", kNumber, &summary)
          .empty());
  EXPECT_EQ(summary.least_number, -2.5);
  EXPECT_EQ(summary.greatest_number, 7);
  EXPECT_EQ(summary.duplicates, 0);

  EXPECT_TRUE(IssuesOf("{\"prompt\":\"ab\",\"completion\":\"cde\"}\n", kAnswer, &summary).empty());
  EXPECT_EQ(summary.text_bytes, 5);
}

TEST(DatasetFormsTest, RefusesTooManyLabels) {
  DatasetLimits limits;
  limits.max_labels = 3;
  std::vector<std::string> reasons;
  DatasetSummary summary;
  const std::string path = FormFile(
      "{\"text\":\"t\",\"label\":[\"a\",\"b\"]}\n{\"text\":\"t\",\"label\":[\"c\",\"d\"]}\n"
      "{\"text\":\"t\",\"label\":[\"1\",\"2\",\"3\",\"4\"]}\n{\"text\":\"t\",\"label\":[\"c\"]}\n");
  ASSERT_TRUE(ScanDataset(
                  path, kLabels, limits,
                  [&](const DatasetIssue& issue) {
                    reasons.push_back(issue.reason);
                    return absl::OkStatus();
                  },
                  &summary)
                  .ok());
  EXPECT_THAT(reasons, ElementsAre(HasSubstr("is a new class, but 3 are the most"),
                                   HasSubstr("has 4 elements; 3 are the most")));
  EXPECT_EQ(summary.labels.size(), 3u);
}

TEST(DatasetFormsTest, SplitsConversationsByWhatIsAsked) {
  const auto hash = [](std::vector<Turn> turns) {
    return HashTexts(Example{.turns = std::move(turns)});
  };
  const uint64_t asked = hash({{"user", "q"}, {"assistant", "a"}});
  EXPECT_EQ(asked, hash({{"user", "q"}, {"assistant", "another"}}));
  EXPECT_NE(asked, hash({{"user", "r"}, {"assistant", "a"}}));
  EXPECT_NE(asked, hash({{"user", "q"}, {"assistant", "a"}, {"user", "r"}}));
  EXPECT_EQ(HashTexts(Example{.text = "p", .answer = "x"}),
            HashTexts(Example{.text = "p", .answer = "y"}));
}

}  // namespace
}  // namespace thaw
