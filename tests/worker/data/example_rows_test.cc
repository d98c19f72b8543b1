// What each task makes of an example; every mistake that other trainers made has its test.
#include "worker/data/example_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "worker/data/completion_rows.h"
#include "worker/data/packed_batch.h"
#include "worker/data/source_rows.h"
#include "worker/data/tokenized_dataset.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Words alone; `before` and `after`, if any, go around each text.
std::unique_ptr<Tokenizer> Words(const std::string& before, const std::string& after) {
  const std::string ids = R"({"<s>":0,"</s>":1,"[UNK]":2,"a":3,"b":4,"c":5,"d":6,"e":7})";
  std::string parts, special;
  const auto add = [&](const std::string& token, int id) {
    if (token.empty()) return;
    parts +=
        (parts.empty() ? "" : ",") + (R"({"SpecialToken":{"id":")" + token) + R"(","type_id":0}})";
    special += (special.empty() ? "\"" : ",\"") + token + R"(":{"id":")" + token + R"(","ids":[)" +
               std::to_string(id) + R"(],"tokens":[")" + token + R"("]})";
  };
  add(before, 0);
  parts += std::string(parts.empty() ? "" : ",") + R"({"Sequence":{"id":"A","type_id":0}})";
  add(after, 1);
  const std::string processor =
      special.empty()
          ? "null"
          : R"({"type":"TemplateProcessing","single":[)" + parts + R"(],"pair":[)" + parts +
                R"(,{"Sequence":{"id":"B","type_id":1}}],"special_tokens":{)" + special + "}}";
  auto tokenizer = Tokenizer::FromJson(
      R"({"version":"1.0","normalizer":null,"pre_tokenizer":{"type":"WhitespaceSplit"},)"
      R"("added_tokens":[{"id":0,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,)"
      R"("normalized":false,"special":true},{"id":1,"content":"</s>","single_word":false,)"
      R"("lstrip":false,"rstrip":false,"normalized":false,"special":true}],)"
      R"("decoder":null,"truncation":null,"padding":null,"post_processor":)" +
      processor + R"(,"model":{"type":"WordLevel","vocab":)" + ids + R"(,"unk_token":"[UNK]"}})");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

const Tokenizer& Recorded(const std::string& name) {
  static std::map<std::string, std::unique_ptr<Tokenizer>> loaded;
  std::unique_ptr<Tokenizer>& tokenizer = loaded[name];
  if (tokenizer == nullptr) {
    tokenizer =
        Tokenizer::Load(std::string(std::getenv("THAW_TEST_DATA")) + "/tokenizers/" + name).value();
  }
  return *tokenizer;
}

constexpr int32_t kEnd = 1;

TokenizeOptions OptionsFor(RowKind kind, int32_t max_length) {
  return {.max_length = max_length, .kind = kind, .max_target_length = max_length, .end = kEnd};
}

ExampleRow RowOf(const Example& example, const Tokenizer& tokenizer,
                 const TokenizeOptions& options) {
  auto rows = EncodeExamples({&example, 1}, tokenizer, options);
  EXPECT_TRUE(rows.ok()) << rows.status();
  return rows->front();
}

TokenizedDataset DatasetOf(const std::string& lines, const DatasetSchema& schema,
                           const Tokenizer& tokenizer, const TokenizeOptions& options,
                           const std::vector<std::string>& labels = {}) {
  const std::string path = testing::TempDir() + "/rows_" + std::to_string(getpid()) + ".jsonl";
  std::ofstream(path, std::ios::binary) << lines;
  auto reader = DatasetReader::Open(path, schema);
  EXPECT_TRUE(reader.ok()) << reader.status();
  auto dataset = TokenizeDataset(reader->get(), tokenizer, labels, options);
  EXPECT_TRUE(dataset.ok()) << dataset.status();
  unlink(path.c_str());
  return *std::move(dataset);
}

const DatasetSchema kTexts = {.label_column = "", .form = ExampleForm::kText};

TEST(ContiguousRows, AreJoinedWithTheEndBetweenAndCut) {
  const auto words = Words("", "");
  const TokenizedDataset dataset =
      DatasetOf("{\"text\":\"a b\"}\n{\"text\":\"c\"}\n{\"text\":\"d e a b c d\"}\n", kTexts,
                *words, OptionsFor(RowKind::kContiguous, 4));
  ASSERT_EQ(dataset.rows(), 3);
  EXPECT_THAT(dataset.row(0), ElementsAre(3, 4, kEnd, 5));
  EXPECT_THAT(dataset.row(1), ElementsAre(kEnd, 6, 7, 3));
  EXPECT_THAT(dataset.row(2), ElementsAre(4, 5, 6, kEnd));
  EXPECT_THAT(dataset.lines, ElementsAre(1, 2, 3));
  for (int64_t row = 0; row < 3; ++row) {
    EXPECT_THAT(dataset.answers[row], ElementsAre(TokenSpan{1, 4}));
    EXPECT_EQ(dataset.loss_units(row), 3);
  }
}

TEST(ContiguousRows, LoseOnlyALastTokenThatStandsAlone) {
  const auto words = Words("", "");
  const TokenizedDataset dataset = DatasetOf("{\"text\":\"a b c d e a b c\"}\n", kTexts, *words,
                                             OptionsFor(RowKind::kContiguous, 4));
  ASSERT_EQ(dataset.rows(), 2);
  EXPECT_EQ(dataset.tokens(), 8);
  EXPECT_THAT(dataset.lines, SizeIs(2));
}

// For a model that goes on from row to row, however the texts' length falls: every token but the
// very first is foretold once, and every token but the very last is read once.
TEST(ContiguousRows, ForetellEveryTokenOnce) {
  const auto words = Words("", "");
  for (int count = 2; count < 14; ++count) {
    TokenizeOptions options = OptionsFor(RowKind::kContiguous, 4);
    options.foretells_next = true;
    std::string lines;
    std::vector<int64_t> stream;
    for (int i = 0; i < count; ++i) {
      const int word = i * i % 5;
      lines += absl::StrCat("{\"text\":\"", std::string(1, static_cast<char>('a' + word)), "\"}\n");
      stream.insert(stream.end(), {3 + word, kEnd});
    }
    const TokenizedDataset dataset = DatasetOf(lines, kTexts, *words, options);
    std::vector<int64_t> rows(static_cast<size_t>(dataset.rows()));
    std::iota(rows.begin(), rows.end(), 0);
    const PackedBatch batch = Pack(dataset, rows);
    EXPECT_EQ(batch.next_ids, std::vector<int64_t>(stream.begin() + 1, stream.end())) << count;
    for (size_t i = 0; i < batch.loss_rows.size(); ++i) {
      EXPECT_EQ(batch.loss_rows[i], static_cast<int64_t>(i));
    }
    int64_t units = 0;
    for (const int64_t row : rows) units += dataset.loss_units(row);
    EXPECT_EQ(units, static_cast<int64_t>(stream.size()) - 1);
    ASSERT_GE(batch.tokens(), static_cast<int64_t>(stream.size()) - 1);
    EXPECT_TRUE(std::equal(batch.token_ids.begin(), batch.token_ids.end(), stream.begin()));
    EXPECT_EQ(dataset.lines.size(), rows.size());
  }
}

TEST(ContiguousRows, KeepWhatTheTokenizerPutsAroundATextButDoNotDoubleItsEnd) {
  const auto words = Words("<s>", "</s>");
  const TokenizedDataset dataset = DatasetOf("{\"text\":\"a\"}\n{\"text\":\"b\"}\n", kTexts, *words,
                                             OptionsFor(RowKind::kContiguous, 8));
  EXPECT_THAT(dataset.row(0), ElementsAre(0, 3, kEnd, 0, 4, kEnd));
}

TEST(DocumentRows, EndIsAppendedOnlyIfItFits) {
  for (const char* after : {"", "</s>"}) {
    const auto words = Words("<s>", after);
    const TokenizeOptions options = OptionsFor(RowKind::kDocument, 4);
    EXPECT_THAT(RowOf({.text = "a b"}, *words, options).ids, ElementsAre(0, 3, 4, kEnd));
    const ExampleRow full = RowOf({.text = "a b c"}, *words, options);
    EXPECT_THAT(full.ids, ElementsAre(0, 3, 4, 5));
    const ExampleRow cut = RowOf({.text = "a b c d"}, *words, options);
    EXPECT_THAT(cut.ids, ElementsAre(0, 3, 4, 5));
    EXPECT_TRUE(cut.truncated);
    EXPECT_THAT(cut.answers, ElementsAre(TokenSpan{1, 4}));
  }
}

TEST(DocumentRows, AreReadBackwardByModelsThatReadSo) {
  const auto words = Words("<s>", "");
  TokenizeOptions options = OptionsFor(RowKind::kDocument, 4);
  options.backward = true;
  EXPECT_THAT(RowOf({.text = "a b"}, *words, options).ids, ElementsAre(4, 3, 0, kEnd));
  EXPECT_THAT(RowOf({.text = "a b c d"}, *words, options).ids, ElementsAre(5, 4, 3, 0));
  options.kind = RowKind::kContiguous;
  EXPECT_THAT(RowOf({.text = "a b c d"}, *words, options).ids, ElementsAre(6, 5, 4, 3, 0, kEnd));
  options.kind = RowKind::kText;
  EXPECT_THAT(RowOf({.text = "a b c d"}, *words, options).ids, ElementsAre(5, 4, 3, 0));
}

TEST(CompletionRows, LossIsOnCompletionAndEndOnly) {
  const auto words = Words("<s>", "");
  const ExampleRow row =
      RowOf({.text = "a b", .answer = " c d"}, *words, OptionsFor(RowKind::kCompletion, 16));
  EXPECT_THAT(row.ids, ElementsAre(0, 3, 4, 5, 6, kEnd));
  EXPECT_THAT(row.answers, ElementsAre(TokenSpan{3, 6}));
  // Without room for the end it is left out, not put in place of a word.
  const ExampleRow full =
      RowOf({.text = "a b", .answer = " c d"}, *words, OptionsFor(RowKind::kCompletion, 5));
  EXPECT_THAT(full.ids, ElementsAre(0, 3, 4, 5, 6));
  EXPECT_THAT(full.answers, ElementsAre(TokenSpan{3, 5}));
  EXPECT_FALSE(full.truncated);
}

// A collator that masks by the padding's id masks every end of text where both are one token, and
// the model never learns to stop.
TEST(CompletionRows, EndCarriesLossAlsoWhereItIsThePaddingAndOccursInTheText) {
  const auto words = Words("", "");
  const ExampleRow row = RowOf({.text = "a </s> b", .answer = " c </s> d"}, *words,
                               OptionsFor(RowKind::kCompletion, 16));
  EXPECT_THAT(row.ids, ElementsAre(3, kEnd, 4, 5, kEnd, 6, kEnd));
  EXPECT_THAT(row.answers, ElementsAre(TokenSpan{3, 7}));
}

// Training must show the tokens that generation begins from, wherever the border lies.
TEST(CompletionRows, PromptsTokensAreThoseThatGenerationBeginsFrom) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"The answer:", " 42"}, {"The answer: ", "42"}, {"Hel", "lo world"}, {"", "all of it"},
      {"a\n", "\nb"},         {"caf", "é"},           {"1", "234"},        {"x =", "= y"}};
  for (const char* file : {"smollm2.tokenizer.json", "gpt2.small.json", "byte_fallback.small.json",
                           "unigram.small.json"}) {
    const Tokenizer& tokenizer = Recorded(file);
    for (const auto& [prompt, completion] : cases) {
      const std::string_view one = prompt, other = completion;
      const auto prompts = EncodePrompts({&one, 1}, tokenizer, 1);
      const auto both = EncodeCompletions({&one, 1}, {&other, 1}, tokenizer, 1);
      ASSERT_TRUE(prompts.ok() && both.ok());
      const auto& row = both->front();
      ASSERT_EQ(static_cast<size_t>(row.prompt_tokens), prompts->front().size());
      EXPECT_TRUE(std::equal(prompts->front().begin(), prompts->front().end(), row.ids.begin()))
          << file << ": " << prompt << "|" << completion;
      EXPECT_GT(row.ids.size(), prompts->front().size());
    }
  }
  // Byte-level tokenizers lose nothing at the border either.
  for (const auto& [prompt, completion] : cases) {
    const std::string_view one = prompt, other = completion;
    const auto both =
        EncodeCompletions({&one, 1}, {&other, 1}, Recorded("smollm2.tokenizer.json"), 1);
    EXPECT_EQ(*Recorded("smollm2.tokenizer.json").Decode(both->front().ids, false),
              prompt + completion);
  }
}

// A completion that is encoded by itself would begin with the space of a text's beginning.
TEST(CompletionRows, NoSpaceComesBetweenPromptAndCompletion) {
  const Tokenizer& llama = Recorded("byte_fallback.small.json");
  const std::string_view prompt = "12 * 34? It is ", completion = "408";
  const auto both = EncodeCompletions({&prompt, 1}, {&completion, 1}, llama, 1);
  ASSERT_TRUE(both.ok());
  EXPECT_EQ(*llama.Decode(both->front().ids, true), "12 * 34? It is 408");
}

TEST(CompletionRows, BeginningOfTextIsThereOnce) {
  const Tokenizer& llama = Recorded("byte_fallback.small.json");
  const int32_t begin = *llama.TokenToId("<s>");
  const std::string_view prompt = "a", completion = " b";
  const auto both = EncodeCompletions({&prompt, 1}, {&completion, 1}, llama, 1);
  EXPECT_EQ(std::count(both->front().ids.begin(), both->front().ids.end(), begin), 1);
}

TEST(CompletionRows, WithoutALossUnitAreSkippedAndCounted) {
  const auto words = Words("", "");
  const DatasetSchema schema = {
      .text_column = "prompt", .label_column = "completion", .form = ExampleForm::kAnswer};
  const TokenizedDataset dataset = DatasetOf(
      "{\"prompt\":\"a b\",\"completion\":\" c\"}\n{\"prompt\":\"a b c d e\",\"completion\":\" "
      "a\"}\n"
      "{\"prompt\":\"a b c\",\"completion\":\" d e\"}\n",
      schema, *words, OptionsFor(RowKind::kCompletion, 4));
  ASSERT_EQ(dataset.rows(), 2);
  EXPECT_EQ(dataset.skipped_rows, 1);
  EXPECT_EQ(dataset.first_skipped_line, 2);
  EXPECT_EQ(dataset.truncated_rows, 2);
  EXPECT_THAT(dataset.lines, ElementsAre(1, 3));
  EXPECT_THAT(dataset.answers[1], ElementsAre(TokenSpan{3, 4}));
}

constexpr char kChatTemplate[] =
    "{{ bos_token }}{% for m in messages %}{{ ' ' + m['role'] + ' ' + m['content'] + ' </s>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ ' assistant' }}{% endif %}";

TEST(ConversationRows, LossIsOnTheAssistantsTurnsWithTheirEndAndNothingIsDoubled) {
  const auto words = Words("<s>", "</s>");
  const auto chat =
      ChatTemplate::FromSource(kChatTemplate, "test", *words, {.texts = {{"bos_token", "<s>"}}}, 0);
  ASSERT_TRUE(chat.ok()) << chat.status();
  TokenizeOptions options = OptionsFor(RowKind::kConversation, 64);
  options.chat = chat->get();
  const Example example = {
      .turns = {{"user", "a"}, {"assistant", "b c"}, {"user", "d"}, {"assistant", "e"}}, .line = 1};
  const ExampleRow row = RowOf(example, *words, options);
  // <s> user a </s> assistant b c </s> user d </s> assistant e </s>
  EXPECT_THAT(row.ids, ElementsAre(0, 2, 3, 1, 2, 4, 5, 1, 2, 6, 1, 2, 7, 1));
  EXPECT_THAT(row.answers, ElementsAre(TokenSpan{5, 8}, TokenSpan{12, 14}));
  options.max_length = 5;
  EXPECT_THAT(RowOf(example, *words, options).answers, IsEmpty());
}

// One word of the text, two turns of the template.
TEST(ConversationRows, ATokenInTwoTurnsCountsOnce) {
  const auto words = Words("", "");
  const auto chat = ChatTemplate::FromSource(
      "a {% generation %}b c{% endgeneration %}{% generation %}d e{% endgeneration %}", "test",
      *words, {}, 0);
  ASSERT_TRUE(chat.ok()) << chat.status();
  TokenizeOptions options = OptionsFor(RowKind::kConversation, 64);
  options.chat = chat->get();
  const Example example = {.turns = {{"user", "a"}, {"assistant", "b"}}, .line = 1};
  const ExampleRow row = RowOf(example, *words, options);
  EXPECT_THAT(row.ids, ElementsAre(3, 4, 2, 7));  // a b cd e
  EXPECT_THAT(row.answers, ElementsAre(TokenSpan{1, 3}, TokenSpan{3, 4}));
}

TEST(ConversationRows, ARefusalNamesTheLine) {
  const auto words = Words("", "");
  const auto chat =
      ChatTemplate::FromSource("{{ raise_exception('no system here') }}", "test", *words, {}, 0);
  ASSERT_TRUE(chat.ok()) << chat.status();
  TokenizeOptions options = OptionsFor(RowKind::kConversation, 64);
  options.chat = chat->get();
  const Example example = {.turns = {{"user", "a"}, {"assistant", "b"}}, .line = 7};
  const auto rows = EncodeExamples({&example, 1}, *words, options);
  EXPECT_EQ(rows.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(rows.status().message()), HasSubstr("line 7: "));
  EXPECT_THAT(std::string(rows.status().message()), HasSubstr("no system here"));
}

TEST(TargetRows, SourceAndTargetEndAndTheTargetOnlyIfItFits) {
  for (const char* after : {"", "</s>"}) {
    const auto words = Words("", after);
    TokenizeOptions options = OptionsFor(RowKind::kTarget, 4);
    options.max_target_length = 3;
    const ExampleRow row = RowOf({.text = "a b c d", .answer = "d e"}, *words, options);
    EXPECT_THAT(row.ids, ElementsAre(3, 4, 5, kEnd));
    EXPECT_THAT(row.target, ElementsAre(6, 7, kEnd));
    EXPECT_TRUE(row.truncated);
    EXPECT_THAT(RowOf({.text = "a", .answer = "a b c d"}, *words, options).target,
                ElementsAre(3, 4, 5));
    EXPECT_THAT(RowOf({.text = "a", .answer = "a b c"}, *words, options).target,
                ElementsAre(3, 4, 5));
  }
}

// The one function that training, scoring and generation read sources by.
TEST(SourceRows, EndWhereTheFrameDoesNotCutOrNot) {
  for (const char* after : {"", "</s>"}) {
    const auto words = Words("<s>", after);
    const std::vector<TextInput> sources = {{"a b"}, {"a b c d e"}};
    const auto rows = EncodeSources(sources, *words, kEnd, 5, 1);
    ASSERT_TRUE(rows.ok()) << rows.status();
    EXPECT_THAT((*rows)[0].ids, ElementsAre(0, 3, 4, kEnd));
    EXPECT_FALSE((*rows)[0].truncated);
    EXPECT_THAT((*rows)[1].ids, ElementsAre(0, 3, 4, 5, kEnd));
    EXPECT_TRUE((*rows)[1].truncated);
  }
  const auto words = Words("", "");
  EXPECT_THAT((*EncodeSources(std::vector<TextInput>{{"a b"}}, *words, {}, 5, 1))[0].ids,
              ElementsAre(3, 4));
}

TEST(PackedRows, FirstTokenOfASequenceIsNoTargetOfTheOneBefore) {
  const auto words = Words("", "");
  const TokenizedDataset dataset = DatasetOf("{\"text\":\"a b c\"}\n{\"text\":\"d e\"}\n", kTexts,
                                             *words, OptionsFor(RowKind::kDocument, 8));
  const int64_t rows[] = {1, 0};
  const PackedBatch batch = Pack(dataset, rows);
  EXPECT_THAT(batch.token_ids, ElementsAre(6, 7, kEnd, 3, 4, 5, kEnd));
  EXPECT_THAT(batch.cu_seqlens, ElementsAre(0, 3, 7));
  EXPECT_THAT(batch.loss_rows, ElementsAre(0, 1, 3, 4, 5));
  EXPECT_THAT(batch.next_ids, ElementsAre(7, kEnd, 4, 5, kEnd));
}

TEST(PackedRows, DecoderReadsTheTargetShiftedRightBehindItsStart) {
  const auto words = Words("", "");
  TokenizeOptions options = OptionsFor(RowKind::kTarget, 8);
  options.decoder_start = 2;
  const DatasetSchema schema = {
      .text_column = "source", .label_column = "target", .form = ExampleForm::kAnswer};
  const TokenizedDataset dataset =
      DatasetOf("{\"source\":\"a\",\"target\":\"b c\"}\n{\"source\":\"d e\",\"target\":\"a\"}\n",
                schema, *words, options);
  EXPECT_EQ(dataset.tokens(), 10);
  EXPECT_EQ(dataset.size(0), 5);
  EXPECT_EQ(dataset.loss_units(0), 3);
  const int64_t rows[] = {0, 1};
  const PackedBatch batch = Pack(dataset, rows);
  EXPECT_THAT(batch.cu_seqlens, ElementsAre(0, 2, 5));
  EXPECT_THAT(batch.target_ids, ElementsAre(2, 4, 5, 2, 3));
  EXPECT_THAT(batch.target_bounds, ElementsAre(0, 3, 5));
  EXPECT_THAT(batch.loss_rows, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(batch.next_ids, ElementsAre(4, 5, kEnd, 3, kEnd));
}

TEST(PackedRows, SeveralLabelsAndNumbers) {
  const auto words = Words("", "");
  TokenizeOptions options = {.form = ExampleForm::kLabels};
  const TokenizedDataset several =
      DatasetOf("{\"text\":\"a\",\"label\":[\"z\",\"x\"]}\n{\"text\":\"b\",\"label\":[]}\n",
                {.form = ExampleForm::kLabels}, *words, options, {"x", "y", "z"});
  const int64_t rows[] = {1, 0};
  EXPECT_THAT(several.label_sets[0], ElementsAre(0, 2));
  EXPECT_THAT(Pack(several, rows).outputs, ElementsAre(0, 0, 0, 1, 0, 1));
  EXPECT_EQ(several.loss_units(0), 1);
  options.form = ExampleForm::kNumber;
  const TokenizedDataset numbers =
      DatasetOf("{\"text\":\"a\",\"label\":1.5}\n{\"text\":\"b\",\"label\":-2}\n",
                {.form = ExampleForm::kNumber}, *words, options);
  EXPECT_THAT(Pack(numbers, rows).outputs, ElementsAre(-2, 1.5));
}

}  // namespace
}  // namespace thaw
