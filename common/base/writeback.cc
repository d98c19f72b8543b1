#include "common/base/writeback.h"

#include <fcntl.h>

namespace thaw {

void StartWriteback(int fd, int64_t offset, int64_t count) {
  constexpr int64_t kStretch = int64_t{8} << 20;
  const int64_t begin = offset / kStretch * kStretch;
  const int64_t end = (offset + count) / kStretch * kStretch;
  if (end > begin) (void)sync_file_range(fd, begin, end - begin, SYNC_FILE_RANGE_WRITE);
}

}  // namespace thaw
