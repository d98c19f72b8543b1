#include "common/base/json.h"

#include <gtest/gtest.h>

#include <string>

#include "common/base/files.h"
#include "tests/testing/temp_dir.h"

namespace thaw {
namespace {

std::string Nested(int depth) {
  return std::string(static_cast<size_t>(depth), '[') +
         std::string(static_cast<size_t>(depth), ']');
}

TEST(JsonTest, TakesWhatIsJson) {
  for (const std::string& text :
       {std::string("{}"), std::string(" [1, -2.5e3, \"\\u00e4\", null, true] \n"),
        std::string("{\"a\": {\"b\": 1}, \"b\": {\"b\": 2}}"), std::string("\"\xc3\xa4\""),
        std::string("17"), Nested(64)}) {
    EXPECT_TRUE(ParseJson(text).ok()) << text << ": " << ParseJson(text).status();
  }
}

TEST(JsonTest, RefusesTheRest) {
  for (const std::string& text : {std::string(""),
                                  std::string("{"),
                                  std::string("{} {}"),
                                  std::string("[1,]"),
                                  std::string("{\"a\": 1, \"a\": 2}"),
                                  std::string("{\"x\": [{\"a\": 1, \"\\u0061\": 2}]}"),
                                  std::string("{a: 1}"),
                                  std::string("NaN"),
                                  std::string("[Infinity]"),
                                  std::string("\"\xff\""),
                                  std::string("\"\xc0\xaf\""),
                                  std::string("\"\xed\xa0\x80\""),
                                  std::string("'a'"),
                                  std::string("// note\n1"),
                                  std::string("01"),
                                  std::string("1\0", 2),
                                  std::string("1\0, 2", 5),
                                  std::string("\"\x01\""),
                                  Nested(66),
                                  Nested(200'000)}) {
    EXPECT_EQ(ParseJson(text).status().code(), absl::StatusCode::kInvalidArgument)
        << text.substr(0, 80);
  }
}

TEST(JsonTest, SaysWhichKeyOccursTwice) {
  EXPECT_EQ(ParseJson("{\"rate\": 1, \"rate\": 2}").status().message(),
            "JSON: key \"rate\" occurs twice in one object");
}

TEST(JsonTest, ErrorsOfFilesBeginWithThePath) {
  const TempDir directory;
  const std::string path = directory.path() + "/a.json";
  ASSERT_TRUE(WriteFileAtomically(path, "{\"a\": [1, 2]}").ok());
  EXPECT_EQ((*ReadJsonFile(path))["a"][1], 2);
  ASSERT_TRUE(WriteFileAtomically(path, "{").ok());
  EXPECT_EQ(std::string(ReadJsonFile(path).status().message()).find(path), 0u);
  EXPECT_EQ(ReadJsonFile(path + "x").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace thaw
