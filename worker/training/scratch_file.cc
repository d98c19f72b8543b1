#include "worker/training/scratch_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"

namespace thaw {
namespace {

// Slabs double what there is, within these: few mappings, and little that is never filled.
constexpr int64_t kLeastFileSlabBytes = int64_t{1} << 20, kMostFileSlabBytes = int64_t{32} << 20;
constexpr int64_t kShareOfFree = 2;  // others want room as well: one in so many

int64_t PageBytes() {
  static const int64_t bytes = sysconf(_SC_PAGESIZE);
  return bytes;
}

int64_t WholePages(int64_t bytes) { return (bytes + PageBytes() - 1) / PageBytes() * PageBytes(); }

// Of the pages that hold any of it: what lies beside it in them is only found a little later.
void Advise(const std::byte* values, int64_t bytes, int advice) {
  const auto begin = reinterpret_cast<uintptr_t>(values);
  const uintptr_t page = begin / PageBytes() * PageBytes();
  madvise(reinterpret_cast<void*>(page), begin + bytes - page, advice);
}

}  // namespace

absl::StatusOr<int64_t> FreeBytesOnOwnDisk(const std::string& directory) {
  struct statfs info {};
  if (statfs(directory.c_str(), &info) != 0) return ErrnoStatus(errno, directory);
  if (info.f_type == TMPFS_MAGIC || info.f_type == RAMFS_MAGIC) return 0;
  THAW_ASSIGN_OR_RETURN(const bool network, IsNetworkFileSystem(directory));
  return network ? absl::StatusOr<int64_t>(0) : FreeBytes(directory);
}

int AllocateInFile(int fd, int64_t offset, int64_t bytes) {
  int result;
  do {
    result = fallocate(fd, 0, offset, bytes);
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

ScratchFile::ScratchFile(ScratchRoom room) : room_(std::move(room)) {
  if (room_.directory.empty()) {
    full_ = absl::ResourceExhaustedError("there is none");
    return;
  }
  const absl::StatusOr<int64_t> free = room_.disk.free_bytes(room_.directory);
  full_.Update(free.status());
  if (!free.ok()) return;
  most_bytes_ = std::max<int64_t>(*free - room_.kept_bytes, 0) / (kShareOfFree * room_.files);
}

ScratchFile::~ScratchFile() {
  for (const std::span<std::byte> slab : slabs_) munmap(slab.data(), slab.size());
}

const std::byte* ScratchFile::Append(std::span<const std::byte> first,
                                     std::span<const std::byte> second) {
  const auto bytes = static_cast<int64_t>(first.size() + second.size());
  if (full_.ok() && !fd_.valid()) full_ = Open();
  if (full_.ok() && bytes_ - used_bytes_ < bytes) full_ = AddSlab(bytes);
  if (!full_.ok()) return nullptr;
  // Not through the mapping: what goes wrong then is an error, and no page becomes resident.
  iovec parts[] = {{const_cast<std::byte*>(first.data()), first.size()},
                   {const_cast<std::byte*>(second.data()), second.size()}};
  for (int64_t written = 0; written < bytes;) {
    const ssize_t result = pwritev(fd_.get(), parts, 2, used_bytes_ + written);
    if (result < 0 && errno == EINTR) continue;
    if (result <= 0) {
      full_ = ErrnoStatus(result < 0 ? errno : EIO, "writing");
      return nullptr;
    }
    written += result;
    for (auto left = static_cast<size_t>(result); iovec & part : parts) {
      const size_t done = std::min(left, part.iov_len);
      part.iov_base = static_cast<std::byte*>(part.iov_base) + done;
      part.iov_len -= done;
      left -= done;
    }
  }
  const std::span<std::byte> slab = slabs_.back();
  const std::byte* const values = slab.data() + (slab.size() - (bytes_ - used_bytes_));
  used_bytes_ += bytes;
  return values;
}

void ScratchFile::Expect(const std::byte* values, int64_t bytes) {
  Advise(values, bytes, MADV_WILLNEED);
}

void ScratchFile::Drop(const std::byte* values, int64_t bytes) {
  Advise(values, bytes, MADV_DONTNEED);
}

absl::Status ScratchFile::Open() {
  const std::string path = room_.directory + "/activations";
  fd_ = UniqueFd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd_.valid()) return ErrnoStatus(errno, "opening");
  if (unlink(path.c_str()) != 0) return ErrnoStatus(errno, "unlinking");
  return absl::OkStatus();
}

absl::Status ScratchFile::AddSlab(int64_t bytes) {
  THAW_ASSIGN_OR_RETURN(const int64_t free, room_.disk.free_bytes(room_.directory));
  const int64_t left = std::min(most_bytes_ - bytes_, free - room_.kept_bytes);
  const int64_t least = WholePages(bytes);
  if (left < least) {
    return absl::ResourceExhaustedError(
        absl::StrCat(free >> 20, " MiB of the disk are free, which others may need"));
  }
  const int64_t wanted =
      std::max(least, std::clamp(bytes_, kLeastFileSlabBytes, kMostFileSlabBytes));
  const int64_t size = std::min(wanted, left / PageBytes() * PageBytes());
  if (const int error = room_.disk.allocate(fd_.get(), bytes_, size); error != 0) {
    // What of it the disk still had.
    if (ftruncate(fd_.get(), bytes_) != 0) return ErrnoStatus(errno, "truncating");
    return ErrnoStatus(error, "allocating");
  }
  void* const mapping =
      mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_SHARED, fd_.get(), bytes_);
  if (mapping == MAP_FAILED) return ErrnoStatus(errno, "mapping");
  slabs_.emplace_back(static_cast<std::byte*>(mapping), static_cast<size_t>(size));
  used_bytes_ = bytes_;  // the end of the slab before is not used
  bytes_ += size;
  return absl::OkStatus();
}

}  // namespace thaw
