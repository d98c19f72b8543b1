#include "worker/text/stop_strings.h"

#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// What each piece releases, then what Finish does.
std::vector<std::string> Released(const std::vector<std::string>& stops,
                                  const std::vector<std::string>& pieces) {
  StopStrings matcher = *StopStrings::Create(stops);
  std::vector<std::string> released;
  for (const std::string& piece : pieces) released.push_back(matcher.Push(piece));
  released.push_back(matcher.Finish());
  return released;
}

TEST(StopStringsTest, HoldsBackWhatMayBecomeAStopString) {
  EXPECT_THAT(Released({"END"}, {"the E", "N", "D and more", "x"}),
              ElementsAre("the ", "", "", "", ""));
  EXPECT_THAT(Released({"END"}, {"the E", "N", "d"}), ElementsAre("the ", "", "ENd", ""));
  EXPECT_THAT(Released({"END"}, {"the E", "N"}), ElementsAre("the ", "", "EN"));
  EXPECT_THAT(Released({"aab"}, {"aa", "a", "b"}), ElementsAre("", "a", "", ""));
  EXPECT_THAT(Released({"\n\n", "User:"}, {"a\n", "b\nUs", "er", ": c"}),
              ElementsAre("a", "\nb\n", "", "", ""));
  EXPECT_THAT(Released({}, {"a", "b"}), ElementsAre("a", "b", ""));
  EXPECT_THAT(Released({"\xE4\xBD\xA0\xE5\xA5\xBD"}, {"x\xE4\xBD\xA0", "\xE4\xBD\xA0"}),
              ElementsAre("x", "\xE4\xBD\xA0", "\xE4\xBD\xA0"));
}

TEST(StopStringsTest, TakesTheOneThatIsCompleteFirst) {
  StopStrings matcher = *StopStrings::Create({"abcd", "bc"});
  EXPECT_EQ(matcher.match(), -1);
  EXPECT_EQ(matcher.Push("xabcd"), "xa");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.match(), 1);
  matcher = *StopStrings::Create({"c", "abc"});
  EXPECT_EQ(matcher.Push("xabc"), "x");
  EXPECT_EQ(matcher.match(), 1);
}

TEST(StopStringsTest, RefusesEmptyAndEndlessStopStrings) {
  EXPECT_THAT(std::string(StopStrings::Create({"a", ""}).status().message()),
              HasSubstr("stop[1] has 0 bytes: must have 1 to 1024"));
  EXPECT_FALSE(StopStrings::Create({std::string(1025, 'a')}).ok());
}

// The same text in any pieces releases the same, and never a byte of the match.
TEST(StopStringsTest, DoesNotDependOnThePieces) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const auto text_of = [&](size_t length) {
    std::string text;
    for (size_t i = 0; i < length; ++i) text += static_cast<char>('a' + random() % 2);
    return text;
  };
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = 0; i < 1 + random() % 3; ++i) stops.push_back(text_of(1 + random() % 6));
    const std::string text = text_of(random() % 30);
    size_t end = std::string::npos;
    size_t begin = text.size();
    for (const std::string& stop : stops) {
      const size_t at = text.find(stop);
      if (at == std::string::npos || at + stop.size() > end) continue;
      begin = at + stop.size() < end ? at : std::min(begin, at);
      end = at + stop.size();
    }
    StopStrings matcher = *StopStrings::Create(stops);
    std::string released;
    for (size_t at = 0; at < text.size();) {
      const std::string piece = text.substr(at, 1 + random() % 4);
      released += matcher.Push(piece);
      at += piece.size();
      ASSERT_TRUE(text.substr(0, begin).starts_with(released));
    }
    released += matcher.Finish();
    ASSERT_EQ(released, text.substr(0, begin)) << text;
    ASSERT_EQ(matcher.stopped(), end != std::string::npos);
  }
}

}  // namespace
}  // namespace thaw
