// Room on a disk for what memory has no room for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/unique_fd.h"

namespace thaw {

// Bytes free on the disk that holds `directory`; 0 where files are memory (tmpfs), or lie beyond a
// network.
absl::StatusOr<int64_t> FreeBytesOnOwnDisk(const std::string& directory);
// Has so many bytes of the file set aside, so that no write into them can find the disk full. 0 or
// errno.
int AllocateInFile(int fd, int64_t offset, int64_t bytes);

// The disk as a scratch file meets it: tests put one in its place that is full.
struct ScratchDisk {
  std::function<absl::StatusOr<int64_t>(const std::string& directory)> free_bytes =
      FreeBytesOnOwnDisk;
  std::function<int(int fd, int64_t offset, int64_t bytes)> allocate = AllocateInFile;
};

// Where a scratch file may lie.
struct ScratchRoom {
  std::string directory;   // empty: nowhere
  int64_t kept_bytes = 0;  // that it leaves free on the disk, whatever else is written meanwhile
  int64_t files = 1;       // that will be there at the same time, each with its part of the rest
  ScratchDisk disk;
};

// A file without a name, gone with this object or its process, that grows slab by slab and is read
// through a mapping. It takes no more than its part of half of what was free beyond kept_bytes when
// it was made. What is read stays in this process's resident memory until Drop. On one thread.
class ScratchFile {
 public:
  explicit ScratchFile(ScratchRoom room);
  ~ScratchFile();
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  // Writes both, one after the other, and returns where they are to be read for as long as this
  // lives. Null: there is no room, which full() explains; nothing is taken from then on.
  const std::byte* Append(std::span<const std::byte> first, std::span<const std::byte> second);

  // What lies there is about to be read: begins to read it from the disk, all at a time.
  static void Expect(const std::byte* values, int64_t bytes);
  // What lies there has been read.
  static void Drop(const std::byte* values, int64_t bytes);

  int64_t bytes() const { return bytes_; }            // taken of the disk
  int64_t most_bytes() const { return most_bytes_; }  // that it may ever take
  const absl::Status& full() const { return full_; }

 private:
  absl::Status Open();
  absl::Status AddSlab(int64_t bytes);

  const ScratchRoom room_;
  int64_t most_bytes_ = 0;
  UniqueFd fd_;
  std::vector<std::span<std::byte>> slabs_;  // the mappings
  int64_t bytes_ = 0;
  int64_t used_bytes_ = 0;  // from the file's beginning; slabs' unused ends count
  absl::Status full_;
};

}  // namespace thaw
