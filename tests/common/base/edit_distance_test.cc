#include "common/base/edit_distance.h"

#include "gtest/gtest.h"

namespace thaw {
namespace {

TEST(EditDistanceTest, CountsInsertionsRemovalsAndReplacements) {
  EXPECT_EQ(EditDistance("", ""), 0u);
  EXPECT_EQ(EditDistance("bias", ""), 4u);
  EXPECT_EQ(EditDistance("", "bias"), 4u);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3u);
  EXPECT_EQ(EditDistance("bais", "bias"), 2u);
  EXPECT_EQ(EditDistance(std::u32string(U"naïve"), std::u32string(U"naive")), 1u);
}

TEST(EditDistanceTest, WithinATextOnlyTheNearestPartCounts) {
  EXPECT_EQ(EditDistanceWithin("bias", "layer.0.bias"), 0u);
  EXPECT_EQ(EditDistanceWithin("bais", "layer.0.bias"), 2u);
  EXPECT_EQ(EditDistanceWithin("", "layer"), 0u);
  EXPECT_EQ(EditDistanceWithin("abc", ""), 3u);
  EXPECT_EQ(EditDistanceWithin("query.weight", "attention.query.bias"), 5u);
}

TEST(EditDistanceTest, FindsTheNearestName) {
  const std::vector<std::string> names = {"left", "middle", "right"};
  EXPECT_EQ(NearestName("lefd", names), "left");
  EXPECT_EQ(NearestName("midle", names), "middle");
  EXPECT_EQ(NearestName("neutral", names), "");
  EXPECT_EQ(NearestName("x", {}), "");
}

}  // namespace
}  // namespace thaw
