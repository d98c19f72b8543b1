#include "worker/text/stream_decoder.h"

#include <cstdlib>
#include <map>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace thaw {
namespace {

using ::testing::ElementsAre;

const Tokenizer& Named(const std::string& name) {
  static auto* const loaded = new std::map<std::string, std::unique_ptr<Tokenizer>>;
  std::unique_ptr<Tokenizer>& tokenizer = (*loaded)[name];
  if (!tokenizer) {
    auto read = Tokenizer::Load(std::string(std::getenv("THAW_TEST_DATA")) + "/tokenizers/" + name +
                                ".json");
    if (!read.ok()) std::abort();
    tokenizer = *std::move(read);
  }
  return *tokenizer;
}

const std::vector<std::string> kTokenizers = {
    "minilm.tokenizer", "smollm2.tokenizer", "unigram.small", "byte_fallback.small",
    "gpt2.small",       "roberta.small",     "bloom.small"};

// What every Push gives, then what Finish does. Each must be whole UTF-8.
std::vector<std::string> Pieces(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                                bool skip_special_tokens) {
  StreamDecoder decoder(tokenizer, skip_special_tokens);
  std::vector<std::string> pieces;
  for (const int32_t id : ids) {
    auto piece = decoder.Push(id);
    EXPECT_TRUE(piece.ok()) << piece.status();
    pieces.push_back(piece.ok() ? *piece : "");
  }
  auto rest = decoder.Finish();
  EXPECT_TRUE(rest.ok()) << rest.status();
  pieces.push_back(rest.ok() ? *rest : "");
  for (const std::string& piece : pieces) {
    EXPECT_NO_THROW(nlohmann::json(piece).dump()) << "is not UTF-8";
  }
  return pieces;
}

std::string Together(const std::vector<std::string>& pieces) {
  std::string text;
  for (const std::string& piece : pieces) text += piece;
  return text;
}

TEST(StreamDecoderTest, GivesInSumWhatDecodeGives) {
  const std::vector<std::string> texts = {
      "Hello, world! It's a test of what streams; isn't it?",
      "\xF0\x9F\x98\x80 x\xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x91\xA7y",
      "\xE4\xBD\xA0\xE5\xA5\xBD\xEF\xBC\x8C\xE4\xB8\x96\xE7\x95\x8C\xE3\x80\x82 "
      "\xE6\x97\xA5\xE6\x9C\xAC",
      "Z\xCD\x91\xCD\xAB\xCD\x83 cafe\xCC\x81 \xF0\x9F\x91\x8D\xF0\x9F\x8F\xBD",
      "   leading   and  inner \n\n spaces  ",
      "\xEF\xBF\xBD a\xEF\xBF\xBD\xEF\xBF\xBD"
      "b",
      "<s>special</s> <|im_start|>user\nhi<|im_end|>\n[CLS] a [SEP]",
      ""};
  for (const std::string& name : kTokenizers) {
    const Tokenizer& tokenizer = Named(name);
    for (const std::string& text : texts) {
      auto encoding = tokenizer.Encode({text}, {});
      ASSERT_TRUE(encoding.ok()) << encoding.status();
      for (const bool skip : {false, true}) {
        EXPECT_EQ(Together(Pieces(tokenizer, encoding->ids, skip)),
                  *tokenizer.Decode(encoding->ids, skip))
            << name << ": " << text;
      }
    }
  }
}

// Ids as a model without sense may sample them: halves of code points, byte tokens, special ones.
TEST(StreamDecoderTest, GivesInSumWhatDecodeGivesForRandomIds) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (const std::string& name : kTokenizers) {
    const Tokenizer& tokenizer = Named(name);
    for (int round = 0; round < 150; ++round) {
      const uint32_t limit = round % 3 == 0 ? std::min(tokenizer.id_limit(), 300)
                                            : static_cast<uint32_t>(tokenizer.id_limit());
      std::vector<int32_t> ids(random() % 80);
      for (int32_t& id : ids) id = static_cast<int32_t>(random() % limit);
      const bool skip = round % 2 == 0;
      ASSERT_EQ(Together(Pieces(tokenizer, ids, skip)), *tokenizer.Decode(ids, skip))
          << name << " " << nlohmann::json(ids).dump();
    }
  }
}

TEST(StreamDecoderTest, HoldsBackHalfACodePointAndNoMore) {
  const Tokenizer& tokenizer = Named("gpt2.small");
  const auto ids = tokenizer
                       .Encode({"a\xF0\x9F\x98\x80"
                                "b"},
                               {})
                       ->ids;
  ASSERT_EQ(ids.size(), 6u);  // a, four bytes, b
  EXPECT_THAT(Pieces(tokenizer, ids, false),
              ElementsAre("a", "", "", "", "\xF0\x9F\x98\x80", "b", ""));
  EXPECT_THAT(Pieces(tokenizer, {ids[0], ids[1], ids[2], ids[5]}, false), ElementsAre("a", "", "",
                                                                                      "\xEF\xBF\xBD"
                                                                                      "b",
                                                                                      ""));
  EXPECT_THAT(Pieces(tokenizer, {ids[1], ids[1], ids[2]}, false),
              ElementsAre("", "\xEF\xBF\xBD", "", "\xEF\xBF\xBD"));
}

TEST(StreamDecoderTest, HoldsBackARunOfByteTokens) {
  const Tokenizer& tokenizer = Named("byte_fallback.small");
  const auto token = [&](const char* text) { return *tokenizer.TokenToId(text); };
  const std::vector<int32_t> run = {token("a"), token("<0xC3>"), token("<0xA9>"), token("b")};
  EXPECT_THAT(Pieces(tokenizer, run, false), ElementsAre("a", "", "",
                                                         "\xC3\xA9"
                                                         "b",
                                                         ""));
  // One wrong byte spoils all of a run, so nothing of it could have been given before.
  const std::vector<int32_t> broken = {token("a"), token("<0xC3>"), token("<0xA9>"),
                                       token("<0xFF>"), token("b")};
  EXPECT_EQ(Together(Pieces(tokenizer, broken, false)),
            "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
            "b");
}

// Decode skips special tokens before it joins bytes, so one in between does not end their run.
TEST(StreamDecoderTest, ASkippedTokenDoesNotEndARunOfByteTokens) {
  const Tokenizer& tokenizer = Named("byte_fallback.small");
  const auto token = [&](const char* text) { return *tokenizer.TokenToId(text); };
  const std::vector<int32_t> ids = {token("<0xC3>"), token("</s>"), token("<0xA9>"), token("b")};
  EXPECT_THAT(Pieces(tokenizer, ids, true), ElementsAre("", "", "",
                                                        "\xC3\xA9"
                                                        "b",
                                                        ""));
  EXPECT_EQ(Together(Pieces(tokenizer, ids, false)),
            "\xEF\xBF\xBD</s>\xEF\xBF\xBD"
            "b");
}

TEST(StreamDecoderTest, SpacesStandWhereDecodePutsThem) {
  const Tokenizer& tokenizer = Named("minilm.tokenizer");
  auto ids = tokenizer.Encode({"it tokenizes, doesn't it"}, {.add_special_tokens = false})->ids;
  const auto pieces = Pieces(tokenizer, ids, true);
  EXPECT_THAT(pieces, ElementsAre("it", " token", "izes", ",", " doesn", " '", " t", " it", ""));
  // Ready for the next text.
  StreamDecoder decoder(tokenizer, true);
  for (int repeat = 0; repeat < 2; ++repeat) {
    EXPECT_EQ(*decoder.Push(ids[0]), "it");
    EXPECT_EQ(*decoder.Finish(), "");
  }
}

}  // namespace
}  // namespace thaw
