#include "common/base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/id.h"
#include "common/base/status.h"
#include "common/base/unique_fd.h"

namespace thaw {
namespace fs = std::filesystem;
namespace {

constexpr unsigned kRenameNoReplace = 1;

absl::Status WriteAll(int fd, absl::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(errno, absl::StrCat("writing ", path));
    }
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status FsyncPath(const std::string& path, int flags) {
  UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("opening ", path));
  if (fsync(fd.get()) != 0) return ErrnoStatus(errno, absl::StrCat("fsync of ", path));
  return absl::OkStatus();
}

std::string ParentOf(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t limit) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("opening ", path));
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, absl::StrCat("reading ", path));
  if (S_ISDIR(info.st_mode)) return ErrnoStatus(EISDIR, absl::StrCat("reading ", path));
  std::string bytes;
  if (S_ISREG(info.st_mode))
    bytes.reserve(static_cast<size_t>(std::min<int64_t>(info.st_size, limit)));
  char buffer[1 << 16];
  while (true) {
    const ssize_t count = read(fd.get(), buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, absl::StrCat("reading ", path));
    if (count == 0) return bytes;
    if (static_cast<int64_t>(bytes.size()) + count > limit) {
      return absl::ResourceExhaustedError(
          absl::StrCat(path, " holds more than the ", limit, " bytes allowed"));
    }
    bytes.append(buffer, static_cast<size_t>(count));
  }
}

absl::Status WriteFileAtomically(const std::string& path, absl::string_view bytes, int mode) {
  const std::string temporary = absl::StrCat(path, ".tmp-", RandomId());
  UniqueFd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("creating ", temporary));
  absl::Status status = WriteAll(fd.get(), bytes, temporary);
  if (status.ok() && fsync(fd.get()) != 0)
    status = ErrnoStatus(errno, absl::StrCat("fsync of ", temporary));
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
    status = ErrnoStatus(errno, absl::StrCat("renaming to ", path));
  }
  if (!status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  return FsyncDirectory(ParentOf(path));
}

absl::Status MakeDirectories(const std::string& path, int mode) {
  std::string current;
  for (absl::string_view part : absl::StrSplit(path, '/')) {
    absl::StrAppend(&current, part, "/");
    if (part.empty() || part == ".") continue;
    if (mkdir(current.c_str(), static_cast<mode_t>(mode)) != 0 && errno != EEXIST) {
      return ErrnoStatus(errno, absl::StrCat("creating directory ", current));
    }
  }
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return ErrnoStatus(errno, path);
  return S_ISDIR(info.st_mode) ? absl::OkStatus() : ErrnoStatus(ENOTDIR, path);
}

absl::Status FsyncDirectory(const std::string& path) {
  return FsyncPath(path, O_RDONLY | O_DIRECTORY);
}

absl::Status FsyncTree(const std::string& path) {
  THAW_ASSIGN_OR_RETURN(const std::vector<FileEntry> files, ListFiles(path));
  std::vector<std::string> directories = {path};
  for (const FileEntry& file : files) {
    const std::string full = absl::StrCat(path, "/", file.path);
    THAW_RETURN_IF_ERROR(FsyncPath(full, O_RDONLY));
    directories.push_back(ParentOf(full));
  }
  std::sort(directories.begin(), directories.end(), [](const std::string& a, const std::string& b) {
    return a.size() != b.size() ? a.size() > b.size() : a < b;
  });
  directories.erase(std::unique(directories.begin(), directories.end()), directories.end());
  for (const std::string& directory : directories) THAW_RETURN_IF_ERROR(FsyncDirectory(directory));
  return absl::OkStatus();
}

absl::Status RemoveTree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  return error ? ErrnoStatus(error.value(), absl::StrCat("removing ", path)) : absl::OkStatus();
}

absl::Status RenameWithoutReplacing(const std::string& from, const std::string& to) {
  if (syscall(SYS_renameat2, AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), kRenameNoReplace) != 0) {
    return ErrnoStatus(errno, absl::StrCat("renaming ", from, " to ", to));
  }
  return FsyncDirectory(ParentOf(to));
}

absl::StatusOr<std::vector<FileEntry>> ListFiles(const std::string& directory) {
  std::vector<FileEntry> files;
  std::error_code error;
  fs::recursive_directory_iterator it(directory, error);
  if (error) return ErrnoStatus(error.value(), absl::StrCat("listing ", directory));
  for (; it != fs::recursive_directory_iterator(); it.increment(error)) {
    if (error) return ErrnoStatus(error.value(), absl::StrCat("listing ", directory));
    const fs::file_status status = it->symlink_status(error);
    if (error) return ErrnoStatus(error.value(), it->path().string());
    if (fs::is_directory(status)) continue;
    if (!fs::is_regular_file(status)) {
      return absl::InvalidArgumentError(
          absl::StrCat(it->path().string(),
                       " is neither a file nor a directory; links and devices are not taken"));
    }
    files.push_back({fs::relative(it->path(), directory, error).string(),
                     static_cast<int64_t>(it->file_size(error))});
    if (error) return ErrnoStatus(error.value(), it->path().string());
  }
  std::sort(files.begin(), files.end(),
            [](const FileEntry& a, const FileEntry& b) { return a.path < b.path; });
  return files;
}

bool IsSafeRelativePath(absl::string_view path) {
  int parts = 0;
  for (absl::string_view part : absl::StrSplit(path, '/')) {
    if (++parts > 4 || part.empty() || part.size() > 128) return false;
    for (size_t i = 0; i < part.size(); ++i) {
      const unsigned char c = static_cast<unsigned char>(part[i]);
      const bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
      if (!word && (i == 0 || (c != '.' && c != '_' && c != '-'))) return false;
    }
  }
  return true;
}

bool Exists(const std::string& path) {
  struct stat info {};
  return lstat(path.c_str(), &info) == 0;
}

absl::StatusOr<int64_t> FreeBytes(const std::string& path) {
  struct statvfs info {};
  if (statvfs(path.c_str(), &info) != 0) return ErrnoStatus(errno, path);
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

absl::StatusOr<bool> IsNetworkFileSystem(const std::string& path) {
  struct statfs info {};
  if (statfs(path.c_str(), &info) != 0) return ErrnoStatus(errno, path);
  // From linux/magic.h and the file systems' own headers: NFS, SMB, CIFS, SMB2, Lustre, FUSE, AFS,
  // Ceph, GPFS, 9p.
  constexpr uint32_t kNetwork[] = {0x6969,     0x517B,     0xFF534D42, 0xFE534D42, 0x0BD00BD0,
                                   0x65735546, 0x5346414F, 0x00C36400, 0x47504653, 0x01021997};
  return std::find(std::begin(kNetwork), std::end(kNetwork), static_cast<uint32_t>(info.f_type)) !=
         std::end(kNetwork);
}

}  // namespace thaw
