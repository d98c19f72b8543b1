#include "common/dataset/dataset_split.h"

#include "gtest/gtest.h"

namespace thaw {
namespace {

Example TextExample(const std::string& text, const std::string& pair = "",
                    const std::string& label = "") {
  Example example;
  example.text = text;
  example.text_pair = pair;
  example.label = label;
  return example;
}

// Values are pinned: another hash would move examples between training and validation of jobs that
// are repeated.
TEST(DatasetSplitTest, HashNeverChanges) {
  EXPECT_EQ(HashTexts(TextExample("")), 5705415379283624141u);
  EXPECT_EQ(HashTexts(TextExample("hello")), 10509149385209626834u);
  EXPECT_EQ(HashTexts(TextExample("hello", "world")), 12778944578242997308u);
}

TEST(DatasetSplitTest, HashSeesBothTextsAndNoLabel) {
  EXPECT_NE(HashTexts(TextExample("ab", "c")), HashTexts(TextExample("a", "bc")));
  EXPECT_NE(HashTexts(TextExample("ab")), HashTexts(TextExample("", "ab")));
  EXPECT_EQ(HashTexts(TextExample("a", "b", "x")), HashTexts(TextExample("a", "b", "y")));
}

TEST(DatasetSplitTest, TakesAboutTheFraction) {
  for (double fraction : {0.0, 0.05, 0.1, 0.5, 1.0}) {
    for (uint64_t seed : {0, 1, 42}) {
      int taken = 0;
      for (int i = 0; i < 20'000; ++i) {
        taken += InValidationSplit(TextExample("text " + std::to_string(i)), fraction, seed);
      }
      EXPECT_NEAR(taken / 20'000.0, fraction, 0.012) << seed;
    }
  }
}

TEST(DatasetSplitTest, SeedsGiveIndependentSplitsAndLargerFractionsContainSmaller) {
  int both = 0;
  for (int i = 0; i < 20'000; ++i) {
    const Example example = TextExample(std::to_string(i));
    both += InValidationSplit(example, 0.5, 1) && InValidationSplit(example, 0.5, 2);
    if (InValidationSplit(example, 0.1, 1)) {
      EXPECT_TRUE(InValidationSplit(example, 0.2, 1));
    }
  }
  EXPECT_NEAR(both / 20'000.0, 0.25, 0.015);
}

}  // namespace
}  // namespace thaw
