#include "worker/agent/usable_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "common/base/files.h"
#include "tests/testing/temp_dir.h"

namespace thaw {
namespace {

class UsableMemoryTest : public ::testing::Test {
 protected:
  void Write(const std::string& path, const std::string& text) {
    const std::string file = root_.path() + path;
    ASSERT_TRUE(MakeDirectories(file.substr(0, file.rfind('/'))).ok());
    ASSERT_TRUE(WriteFileAtomically(file, text).ok());
  }
  int64_t Usable() const { return UsableMemoryBytes(root_.path()); }

  TempDir root_;
  const int64_t all_ = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
};

TEST_F(UsableMemoryTest, WithoutALimitIsAllOfTheMachine) {
  EXPECT_EQ(Usable(), all_);
  Write("/proc/self/cgroup", "0::/a\n");
  Write("/sys/fs/cgroup/a/memory.max", "max\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(Usable(), all_);
}

TEST_F(UsableMemoryTest, IsTheLeastOfTheGroupsAround) {
  Write("/proc/self/cgroup", "0::/a/b\n");
  Write("/sys/fs/cgroup/a/b/memory.max", "3000000\n");
  EXPECT_EQ(Usable(), 3'000'000);
  Write("/sys/fs/cgroup/a/memory.max", "2000000\n");
  EXPECT_EQ(Usable(), 2'000'000);
  Write("/sys/fs/cgroup/a/memory.max", "4000000\n");
  EXPECT_EQ(Usable(), 3'000'000);
}

TEST_F(UsableMemoryTest, KnowsVersionOne) {
  Write("/proc/self/cgroup", "5:cpu,cpuacct:/c\n4:hugetlb,memory:/a\n0::/\n");
  Write("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "5000000\n");
  Write("/sys/fs/cgroup/memory/c/memory.limit_in_bytes", "1000000\n");
  EXPECT_EQ(Usable(), 5'000'000);
}

TEST_F(UsableMemoryTest, AContainerSeesItsGroupAsTheMount) {
  Write("/proc/self/cgroup", "0::/host/path\n");
  Write("/sys/fs/cgroup/memory.max", "6000000\n");
  EXPECT_EQ(Usable(), 6'000'000);
}

}  // namespace
}  // namespace thaw
