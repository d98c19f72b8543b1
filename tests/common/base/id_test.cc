#include "common/base/id.h"

#include <gtest/gtest.h>

#include <set>

namespace thaw {
namespace {

TEST(IdTest, IdsHaveTheirFormAndDoNotRepeat) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string fence = RandomId();
    EXPECT_EQ(fence.size(), 32u);
    EXPECT_EQ(fence.find_first_not_of("0123456789abcdef"), std::string::npos) << fence;
    const std::string id = NewId("job");
    EXPECT_EQ(id.size(), 20u);
    EXPECT_EQ(id.find_first_not_of("0123456789abcdef", 4), std::string::npos) << id;
    EXPECT_EQ(id.substr(0, 4), "job-");
    EXPECT_TRUE(seen.insert(fence).second && seen.insert(id).second);
  }
}

TEST(IdTest, HexIsOfEveryByte) {
  EXPECT_EQ(HexEncode(""), "");
  EXPECT_EQ(HexEncode(absl::string_view("\x00\x0f\xa5\xff", 4)), "000fa5ff");
}

}  // namespace
}  // namespace thaw
