// What the page cache holds of a model's files after they were read ahead.
#include "worker/training/read_ahead.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "common/base/files.h"
#include "common/base/unique_fd.h"
#include "tests/worker/training/toy_job.h"

namespace thaw {
namespace {

constexpr size_t kWeightBytes = (size_t{3} << 20) + 5;

class CachedFile {
 public:
  explicit CachedFile(const std::string& path) {
    EXPECT_TRUE(WriteFileAtomically(path, std::string(kWeightBytes, 'w')).ok());
    fd_ = UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    // It was synced, so the kernel can let go of it.
    EXPECT_EQ(posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_DONTNEED), 0);
  }

  int64_t pages() const {
    void* const mapping = mmap(nullptr, kWeightBytes, PROT_READ, MAP_SHARED, fd_.get(), 0);
    EXPECT_NE(mapping, MAP_FAILED);
    std::vector<unsigned char> there(all_pages());
    EXPECT_EQ(mincore(mapping, kWeightBytes, there.data()), 0);
    munmap(mapping, kWeightBytes);
    return std::count_if(there.begin(), there.end(), [](unsigned char page) { return page & 1; });
  }
  static int64_t all_pages() {
    const auto page = static_cast<size_t>(getpagesize());
    return static_cast<int64_t>((kWeightBytes + page - 1) / page);
  }

 private:
  UniqueFd fd_;
};

TEST(ReadAhead, ReadsTheWeightsWholeAndNothingElse) {
  const std::string directory = FreshDirectory("weights");
  const CachedFile first(directory + "/model-00001-of-00002.safetensors");
  const CachedFile second(directory + "/model-00002-of-00002.safetensors");
  const CachedFile other(directory + "/pytorch_model.bin");
  const int64_t pages_of_other = other.pages();  // more than 0 where files lie in memory alone
  const ReadAhead read_ahead(directory);
  // The test's own time limit ends this where it does not come.
  while (first.pages() < CachedFile::all_pages() || second.pages() < CachedFile::all_pages()) {
    std::this_thread::yield();
  }
  EXPECT_EQ(other.pages(), pages_of_other);
}

}  // namespace
}  // namespace thaw
