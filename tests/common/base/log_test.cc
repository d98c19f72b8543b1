#include "common/base/log.h"

#include <gtest/gtest.h>

#include <string>

namespace thaw {
namespace {

constexpr int64_t kMicros = 1'760'000'000'123'456;
constexpr char kHead[] = "t=2025-10-09T08:53:20.123Z level=info event=tested";

TEST(LogTest, OneLineOfKeysAndValues) {
  EXPECT_EQ(FormatLogLine(kMicros, LogLevel::kInfo, "tested", {{"job", "job-1"}, {"step", 5}}),
            std::string(kHead) + " job=job-1 step=5\n");
  EXPECT_EQ(FormatLogLine(0, LogLevel::kError, "x", {}),
            "t=1970-01-01T00:00:00.000Z level=error event=x\n");
}

TEST(LogTest, AValueCannotForgeALineOrAField) {
  const struct {
    std::string value, written;
  } cases[] = {
      {"two words", "\"two words\""},
      {"", "\"\""},
      {"a=b", "\"a=b\""},
      {"say \"hi\"", "\"say \\\"hi\\\"\""},
      {"x\nt=2025 level=error event=forged", "\"x\\nt=2025 level=error event=forged\""},
      {"\r\x1b[2J\x7f", "\"\\x0d\\x1b[2J\\x7f\""},
      {std::string("a\0b", 3), "\"a\\x00b\""},
      {"caf\xc3\xa9", "caf\xc3\xa9"},
  };
  for (const auto& one : cases) {
    EXPECT_EQ(FormatLogLine(kMicros, LogLevel::kInfo, "tested", {{"v", one.value}}),
              std::string(kHead) + " v=" + one.written + "\n");
  }
}

TEST(LogTest, LinesBelowTheLevelAreDropped) {
  SetLogLevel(LogLevel::kWarning);
  ::testing::internal::CaptureStderr();
  THAW_LOG(kInfo, "quiet");
  THAW_LOG(kWarning, "loud", {"n", 1});
  const std::string written = ::testing::internal::GetCapturedStderr();
  SetLogLevel(LogLevel::kInfo);
  EXPECT_EQ(written.find("quiet"), std::string::npos) << written;
  EXPECT_NE(written.find("level=warning event=loud n=1\n"), std::string::npos) << written;
}

TEST(LogTest, AnIncidentIsLoggedUnderTheIdThatIsTold) {
  ::testing::internal::CaptureStderr();
  const std::string first = LogIncident("rpc", "disk on fire");
  const std::string second = LogIncident("rpc", "disk on fire");
  const std::string written = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(first, second);
  EXPECT_NE(written.find("incident=" + first), std::string::npos) << written;
  EXPECT_NE(written.find("detail=\"disk on fire\""), std::string::npos) << written;
}

TEST(LogDeathTest, ABrokenPromiseAborts) {
  EXPECT_DEATH(THAW_CHECK(1 + 1 == 3), "event=check_failed condition=\"1 \\+ 1 == 3\"");
}

}  // namespace
}  // namespace thaw
