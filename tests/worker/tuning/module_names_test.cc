#include "worker/tuning/module_names.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ModuleNames, WholeOrBehindADot) {
  EXPECT_TRUE(NamesModule("a.q_proj", "q_proj"));
  EXPECT_TRUE(NamesModule("q_proj", "q_proj"));
  EXPECT_TRUE(NamesModule("a.b.q_proj", "b.q_proj"));
  EXPECT_FALSE(NamesModule("a.xq_proj", "q_proj"));
  EXPECT_FALSE(NamesModule("a.q_proj.b", "q_proj"));
  EXPECT_FALSE(NamesModule("q", "q_proj"));
}

TEST(ModuleNames, TheNearestFirst) {
  const std::vector<std::string> names = {"h.0.attn.c_attn", "h.0.attn.c_proj", "h.1.attn.c_attn"};
  EXPECT_THAT(NearestModules("c_atn", names)[0], "c_attn");
  EXPECT_EQ(NearestModules("c_atn", names).size(), 3u);
  EXPECT_THAT(NearestModules("h.0.atn.c_proj", names)[0], "h.0.attn.c_proj");
  EXPECT_TRUE(NearestModules("x", {}).empty());
}

TEST(ModuleNames, ValuesByPattern) {
  google::protobuf::Map<std::string, int32_t> patterns;
  patterns["q_proj"] = 4;
  patterns[".*\\.1\\..*"] = 8;
  EXPECT_EQ(*ByPattern<int32_t>("f", patterns, "h.0.q_proj", 2), 4);
  EXPECT_EQ(*ByPattern<int32_t>("f", patterns, "h.1.k_proj", 2), 8);
  EXPECT_EQ(*ByPattern<int32_t>("f", patterns, "h.0.k_proj", 2), 2);
  EXPECT_EQ(*ByPattern<int32_t>("f", patterns, "h.0.xq_proj", 2), 2);
  EXPECT_THAT(ByPattern<int32_t>("f", patterns, "h.1.q_proj", 2).status().message(),
              HasSubstr("both match h.1.q_proj"));
  patterns["("] = 1;
  EXPECT_FALSE(ByPattern<int32_t>("f", patterns, "h.0.q_proj", 2).ok());
}

}  // namespace
}  // namespace thaw
