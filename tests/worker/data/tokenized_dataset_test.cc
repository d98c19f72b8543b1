#include "worker/data/tokenized_dataset.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "common/dataset/dataset_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const Tokenizer& Words() {
  static const Tokenizer* const tokenizer = [] {
    auto loaded = Tokenizer::Load(std::string(std::getenv("THAW_TEST_DATA")) +
                                  "/tokenizers/minilm.tokenizer.json");
    if (!loaded.ok()) std::abort();
    return loaded->release();
  }();
  return *tokenizer;
}

std::unique_ptr<DatasetReader> ReaderOf(const std::string& contents,
                                        const DatasetSchema& schema = {}) {
  const std::string path = testing::TempDir() + "/tokenized_" + std::to_string(getpid()) + ".jsonl";
  std::ofstream(path, std::ios::binary) << contents;
  auto reader = DatasetReader::Open(path, schema);
  EXPECT_TRUE(reader.ok()) << reader.status();
  unlink(path.c_str());
  return *std::move(reader);
}

const std::vector<std::string> kLabels = {"no", "yes"};

TEST(TokenizedDatasetTest, HoldsRowsInFileOrder) {
  const auto reader = ReaderOf(
      "{\"text\":\"one two\",\"label\":\"yes\"}\n\n{\"text\":\"three\",\"label\":\"no\"}\n"
      "{\"text\":\"one two three four\",\"label\":\"yes\"}\n");
  auto dataset = TokenizeDataset(reader.get(), Words(), kLabels, {.max_length = 5});
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->rows(), 3);
  EXPECT_THAT(dataset->row(0), ElementsAre(101, 2028, 2048, 102));
  EXPECT_THAT(dataset->row(1), ElementsAre(101, 2093, 102));
  EXPECT_THAT(dataset->row(2), ElementsAre(101, 2028, 2048, 2093, 102));
  EXPECT_THAT(dataset->labels, ElementsAre(1, 0, 1));
  EXPECT_THAT(dataset->lines, ElementsAre(1, 3, 4));
  EXPECT_EQ(dataset->truncated_rows, 1);
  EXPECT_EQ(dataset->longest_row, 5);
  EXPECT_EQ(dataset->tokens(), 12);
  EXPECT_TRUE(dataset->type_ids.empty());
}

TEST(TokenizedDatasetTest, MarksTheSecondText) {
  const auto reader = ReaderOf("{\"text\":\"one\",\"b\":\"two\"}\n", {"text", "b", ""});
  auto dataset = TokenizeDataset(reader.get(), Words(), {}, {});
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_THAT(dataset->row(0), ElementsAre(101, 2028, 102, 2048, 102));
  EXPECT_THAT(dataset->type_ids, ElementsAre(0, 0, 0, 1, 1));
  EXPECT_TRUE(dataset->labels.empty());
}

TEST(TokenizedDatasetTest, ThreadsAndFiltersChangeNothingElse) {
  std::string contents;
  for (int i = 0; i < 5000; ++i) {
    contents += "{\"text\":\"example number " + std::to_string(i) + "\",\"label\":\"yes\"}\n";
  }
  auto one = TokenizeDataset(ReaderOf(contents).get(), Words(), kLabels, {.threads = 1});
  auto three = TokenizeDataset(ReaderOf(contents).get(), Words(), kLabels, {.threads = 3});
  ASSERT_TRUE(one.ok() && three.ok());
  EXPECT_EQ(one->token_ids, three->token_ids);
  EXPECT_EQ(one->offsets, three->offsets);
  const auto validation = [](const Example& e) { return InValidationSplit(e, 0.2, 1); };
  const auto training = [&](const Example& e) { return !validation(e); };
  auto first = TokenizeDataset(ReaderOf(contents).get(), Words(), kLabels, {.keep = training});
  auto second = TokenizeDataset(ReaderOf(contents).get(), Words(), kLabels, {.keep = validation});
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->rows() + second->rows(), 5000);
  EXPECT_EQ(first->tokens() + second->tokens(), one->tokens());
  EXPECT_NEAR(static_cast<double>(second->rows()), 1000, 100);
}

TEST(TokenizedDatasetTest, NamesTheLineThatItCannotUse) {
  const std::string good = "{\"text\":\"one\",\"label\":\"yes\"}\n";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {good + "{\"text\":\"t\",\"label\":\"maybe\"}\n", "line 2: label \"maybe\" is not one of"},
      {good + "{\"text\":\"t\"}\n", "line 2, byte 29: \"label\" is missing"},
      {good + "x\n", "line 2, byte 29: the row is not JSON"},
  };
  for (const auto& [contents, message] : cases) {
    auto dataset = TokenizeDataset(ReaderOf(contents).get(), Words(), kLabels, {});
    EXPECT_EQ(dataset.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(dataset.status().message()), HasSubstr(message));
  }
}

TEST(TokenizedDatasetTest, RefusesTextsWithoutTokens) {
  // A tokenizer that adds nothing around a text and knows no white space.
  auto bare = Tokenizer::FromJson(
      R"({"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"WhitespaceSplit"},
          "post_processor":null,"decoder":null,"truncation":null,"padding":null,
          "model":{"type":"WordLevel","vocab":{"one":0,"[UNK]":1},"unk_token":"[UNK]"}})");
  ASSERT_TRUE(bare.ok()) << bare.status();
  const auto reader =
      ReaderOf("{\"text\":\"one\",\"label\":1}\n{\"text\":\"\\u2003\",\"label\":1}\n");
  auto dataset = TokenizeDataset(reader.get(), **bare, {}, {});
  EXPECT_THAT(std::string(dataset.status().message()), HasSubstr("line 2: the text has no tokens"));
}

TEST(TokenizedDatasetTest, KeepsToItsMemory) {
  std::string contents;
  for (int i = 0; i < 3000; ++i) contents += "{\"text\":\"one two\",\"label\":\"yes\"}\n";
  auto dataset = TokenizeDataset(ReaderOf(contents).get(), Words(), kLabels, {.max_bytes = 50'000});
  EXPECT_EQ(dataset.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(TokenizedDatasetTest, TakesInlineTexts) {
  const std::vector<TextInput> texts = {{"one"}, {""}, {"two", "three"}};
  auto dataset = TokenizeTexts(texts, Words(), {});
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->rows(), 3);
  EXPECT_THAT(dataset->row(1), ElementsAre(101, 102));
  EXPECT_THAT(dataset->type_ids, ElementsAre(0, 0, 0, 0, 0, 0, 0, 0, 1, 1));
  EXPECT_THAT(dataset->lines, ElementsAre(1, 2, 3));
  EXPECT_THAT(std::string(TokenizeTexts({{{"\xff"}}}, Words(), {}).status().message()),
              HasSubstr("input 0: text is not UTF-8"));
}

}  // namespace
}  // namespace thaw
