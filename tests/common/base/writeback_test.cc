#include "common/base/writeback.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "common/base/unique_fd.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"

namespace thaw {
namespace {

constexpr int64_t kStretch = int64_t{8} << 20;

// Pages of the file's first `bytes` whose way to the disk has not begun; 0 where the kernel cannot
// say (before 6.5).
uint64_t DirtyPages(int fd, int64_t bytes) {
  constexpr long kCachestat = 451;  // on every architecture
  struct {
    uint64_t offset, length;
  } range = {0, static_cast<uint64_t>(bytes)};
  struct {
    uint64_t cached, dirty, in_writeback, evicted, recently_evicted;
  } found = {};
  return syscall(kCachestat, fd, &range, &found, 0) == 0 ? found.dirty : 0;
}

TEST(StartWriteback, BeginsWithEachStretchThatIsWhole) {
  const TempDir directory;
  const UniqueFd fd(open((directory.path() + "/file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const std::string stretch(static_cast<size_t>(kStretch), 'x');
  ASSERT_EQ(pwrite(fd.get(), stretch.data(), stretch.size(), 0), kStretch);
  // Its last byte makes it whole, wherever it was written from.
  StartWriteback(fd.get(), kStretch - 1, 1);
  const uint64_t dirty = DirtyPages(fd.get(), kStretch);
  ASSERT_EQ(fsync(fd.get()), 0);
  // None on a disk; where files lie in memory alone every page stays so.
  EXPECT_EQ(dirty, DirtyPages(fd.get(), kStretch));
}

}  // namespace
}  // namespace thaw
