// Files and directories as everything in Thaw treats them: written whole or not at all, never
// through a symlink.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace thaw {

// The whole file. RESOURCE_EXHAUSTED if it holds more than `limit` bytes.
absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t limit = int64_t{64} << 20);

// Writes to a sibling, fsyncs, renames over `path` and fsyncs the directory: a reader sees the old
// bytes or all new ones.
absl::Status WriteFileAtomically(const std::string& path, absl::string_view bytes, int mode = 0644);

absl::Status MakeDirectories(const std::string& path, int mode = 0755);
absl::Status FsyncDirectory(const std::string& path);

// Fsyncs every regular file below `path`, then every directory, leaves first.
absl::Status FsyncTree(const std::string& path);

// Removes `path` and everything below it; links are removed, never followed. OK if it is not there.
absl::Status RemoveTree(const std::string& path);

// rename(2) that refuses to replace; fsyncs the new parent. ALREADY_EXISTS if `to` exists.
absl::Status RenameWithoutReplacing(const std::string& from, const std::string& to);

struct FileEntry {
  std::string path;  // relative to the directory, '/' between parts
  int64_t size = 0;  // bytes
};
// The regular files below `directory`, sorted by path. Anything else but a directory (link, device,
// FIFO) is an error.
absl::StatusOr<std::vector<FileEntry>> ListFiles(const std::string& directory);

// A relative path that stays inside: parts match [A-Za-z0-9][A-Za-z0-9._-]{0,127}, at most four of
// them.
bool IsSafeRelativePath(absl::string_view path);

bool Exists(const std::string& path);
// Bytes that an unprivileged user may still write to the file system that holds `path`.
absl::StatusOr<int64_t> FreeBytes(const std::string& path);
// True for NFS, CIFS, Lustre, FUSE and their like, where locks cannot be trusted.
absl::StatusOr<bool> IsNetworkFileSystem(const std::string& path);

}  // namespace thaw
