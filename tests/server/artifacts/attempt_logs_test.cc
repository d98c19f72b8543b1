#include "server/artifacts/attempt_logs.h"

#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"

namespace thaw {
namespace {

class AttemptLogsTest : public ::testing::Test {
 protected:
  void Append(int64_t offset, const std::string& bytes, int64_t expected) {
    const auto committed = logs_.Append("job-1", 1, offset, bytes);
    ASSERT_TRUE(committed.ok()) << committed.status();
    EXPECT_EQ(*committed, expected);
  }
  std::string Read(int64_t offset = 0) { return *logs_.Read("job-1", 1, offset, 100); }

  TempDir directory_;
  AttemptLogs logs_{directory_.path(), 10};
};

TEST_F(AttemptLogsTest, TakesEachByteOnce) {
  Append(0, "abc", 3);
  Append(0, "abc", 3);
  Append(1, "bcde", 5);
  EXPECT_EQ(Read(), "abcde");
  EXPECT_EQ(Read(3), "de");
  EXPECT_EQ(Read(9), "");
}

TEST_F(AttemptLogsTest, KeepsTheFirstBytes) {
  Append(0, "0123456", 7);
  Append(7, "789abcdef", 16);
  EXPECT_EQ(Read(), "0123456789");
  Append(16, "more", 20);
  EXPECT_EQ(Read(), "0123456789");
}

TEST_F(AttemptLogsTest, AttemptsHaveLogsOfTheirOwn) {
  Append(0, "one", 3);
  ASSERT_TRUE(logs_.Append("job-1", 2, 0, "two").ok());
  EXPECT_EQ(Read(), "one");
  EXPECT_EQ(*logs_.Read("job-1", 2, 0, 100), "two");
  EXPECT_EQ(*logs_.Read("job-2", 1, 0, 100), "");
}

TEST_F(AttemptLogsTest, RefusesNamesThatLeadElsewhere) {
  EXPECT_FALSE(logs_.Append("../job", 1, 0, "x").ok());
  EXPECT_FALSE(logs_.Read("../job", 1, 0, 1).ok());
  EXPECT_FALSE(logs_.Append("job-1", 1, -1, "x").ok());
}

}  // namespace
}  // namespace thaw
