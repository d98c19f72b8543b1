#include "common/dataset/dataset_split.h"

#include <map>

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

// A row's side is its own affair: whatever else a file gains, loses or how it is ordered.
TEST(DatasetSplitTest, RowsThatAreAddedMoveNoOthers) {
  std::vector<Example> rows;
  for (int i = 0; i < 500; ++i) rows.push_back(TextExample("text " + std::to_string(i)));
  std::vector<bool> before;
  for (const Example& row : rows) before.push_back(InValidationSplit(row, 0.1, 42));
  std::vector<Example> more;
  for (int i = 499; i >= 0; --i) {
    more.push_back(TextExample("new " + std::to_string(i)));
    more.push_back(rows[static_cast<size_t>(i)]);
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(InValidationSplit(more[2 * (499 - i) + 1], 0.1, 42), before[i]);
  }
}

std::vector<bool> Stratified(const std::vector<Example>& rows, double fraction) {
  StratifiedSplit split(fraction, 42);
  for (const Example& row : rows) split.Add(row);
  split.Choose();
  std::vector<bool> sides;
  for (const Example& row : rows) sides.push_back(split.InValidation(row));
  return sides;
}

TEST(StratifiedSplitTest, TakesTheSameShareOfEveryLabel) {
  std::vector<Example> rows;
  for (int i = 0; i < 1000; ++i) {
    // 900 of one label, 90 of another, 9 of a third, one of a fourth.
    const char* label = i < 900 ? "a" : i < 990 ? "b" : i < 999 ? "c" : "d";
    rows.push_back(TextExample("text " + std::to_string(i), "", label));
  }
  std::map<std::string, int> taken;
  const std::vector<bool> sides = Stratified(rows, 0.1);
  for (size_t i = 0; i < rows.size(); ++i) taken[rows[i].label] += sides[i];
  EXPECT_EQ(taken["a"], 90);
  EXPECT_EQ(taken["b"], 9);
  EXPECT_EQ(taken["c"], 1);
  EXPECT_EQ(taken["d"], 0) << "the only row of a label is trained on";
  // Every label that can spare one gives one.
  EXPECT_EQ(Stratified({rows[0], rows[1]}, 0.01)[0] + Stratified({rows[0], rows[1]}, 0.01)[1], 1);
}

TEST(StratifiedSplitTest, EqualTextsLieOnOneSide) {
  std::vector<Example> rows;
  for (int i = 0; i < 200; ++i) {
    rows.push_back(TextExample(std::to_string(i % 50), "", i % 3 == 0 ? "a" : "b"));
  }
  const std::vector<bool> sides = Stratified(rows, 0.3);
  for (size_t i = 50; i < rows.size(); ++i) EXPECT_EQ(sides[i], sides[i - 50]);
}

TEST(StratifiedSplitTest, RowsThatAreAddedMoveFewOthers) {
  std::vector<Example> rows;
  for (int i = 0; i < 1000; ++i) {
    rows.push_back(TextExample("text " + std::to_string(i), "", i % 4 == 0 ? "a" : "b"));
  }
  const std::vector<bool> before = Stratified(rows, 0.1);
  std::vector<Example> more;
  for (int i = 0; i < 100; ++i) {
    more.push_back(TextExample("new " + std::to_string(i), "", i % 2 == 0 ? "a" : "b"));
  }
  more.insert(more.end(), rows.begin(), rows.end());
  const std::vector<bool> after = Stratified(more, 0.1);
  int moved = 0;
  for (size_t i = 0; i < rows.size(); ++i) moved += before[i] != after[i + 100];
  EXPECT_LE(moved, 15) << "of 100 that are kept back, for a tenth more rows";
  // The order of the file plays no part.
  std::vector<Example> reversed(rows.rbegin(), rows.rend());
  const std::vector<bool> sides = Stratified(reversed, 0.1);
  EXPECT_EQ(std::vector<bool>(sides.rbegin(), sides.rend()), before);
}

}  // namespace
}  // namespace thaw
