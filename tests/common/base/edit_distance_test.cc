#include "common/base/edit_distance.h"

#include "gtest/gtest.h"

namespace thaw {
namespace {

TEST(EditDistanceTest, CountsInsertionsRemovalsAndReplacements) {
  const auto distance = [](const std::string& a, const std::string& b) {
    return EditDistance(a, b);
  };
  EXPECT_EQ(distance("", ""), 0u);
  EXPECT_EQ(distance("abc", ""), 3u);
  EXPECT_EQ(distance("", "ab"), 2u);
  EXPECT_EQ(distance("kitten", "sitting"), 3u);
  EXPECT_EQ(distance("1234", "1243"), 2u);
  EXPECT_EQ(EditDistance(std::u32string(U"naïve"), std::u32string(U"naive")), 1u);
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
