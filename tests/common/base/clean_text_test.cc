#include "common/base/clean_text.h"

#include "common/base/json.h"
#include "gtest/gtest.h"

namespace thaw {
namespace {

TEST(CleanTextTest, Cases) {
  struct Case {
    std::string text;
    size_t most;
    std::string clean;
  };
  const Case cases[] = {
      {"", 10, ""},
      {"plain\ttext", 100, "plain\ttext"},
      {"a\nb\rc\x1b[0m\x7f", 100, "a b c [0m "},
      {std::string("nul\0here", 8), 100, "nul here"},
      {"gr\u00fc\u00df \u6f22 \U0001f600", 100, "gr\u00fc\u00df \u6f22 \U0001f600"},
      {"csi\u009b31m", 100, "csi 31m"},
      {"gr\u00fc\u00df", 3, "gr"},  // no half characters
      {"\xff\xfe", 10, "??"},       // no UTF-8 at all
      {"\xc0\xaf", 10, "??"},       // longer than needed
      {"\xe0\x80\x80", 10, "???"},
      {"\xf0\x80\x80\x80", 10, "????"},
      {"\xed\xa0\x80", 10, "???"},       // a surrogate
      {"\xf4\x90\x80\x80", 10, "????"},  // beyond Unicode
      {"cut \xe6\xbc", 10, "cut ??"},
  };
  for (const Case& one : cases) {
    EXPECT_EQ(CleanText(one.text, one.most), one.clean) << one.text;
    EXPECT_NO_THROW((void)nlohmann::json(CleanText(one.text, one.most)).dump()) << one.text;
  }
}

}  // namespace
}  // namespace thaw
