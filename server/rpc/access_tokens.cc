#include "server/rpc/access_tokens.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/files.h"
#include "common/base/id.h"
#include "common/base/sha256.h"
#include "common/base/status.h"

namespace thaw {
namespace {

absl::StatusOr<std::string> ReadOrMakeToken(const std::string& path) {
  if (!Exists(path)) {
    THAW_RETURN_IF_ERROR(WriteFileAtomically(path, RandomId() + RandomId() + "\n", 0600));
  }
  struct stat info;
  if (stat(path.c_str(), &info) != 0 || (info.st_mode & 077) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " can be read by others than its owner: chmod 600 ", path));
  }
  // Whoever could put the file there would know what is in it.
  if (info.st_uid != geteuid()) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " belongs to another user: remove it, the server will write a fresh one"));
  }
  THAW_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, 4096));
  const std::string token(absl::StripAsciiWhitespace(text));
  if (token.size() < 16) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " holds fewer than 16 characters: remove it, the server will write a fresh one"));
  }
  return token;
}

}  // namespace

bool IsOwnerName(absl::string_view name) {
  if (name.empty() || name.size() > 63 || !absl::ascii_isalnum(name[0])) return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '.' || c == '_' || c == '-';
  });
}

AccessTokens::AccessTokens(std::string data_dir, std::string owners_file)
    : data_dir_(std::move(data_dir)), owners_file_(std::move(owners_file)) {}

absl::StatusOr<std::unique_ptr<AccessTokens>> AccessTokens::Load(const std::string& data_dir,
                                                                 const std::string& owners_file) {
  auto tokens = std::unique_ptr<AccessTokens>(new AccessTokens(data_dir, owners_file));
  THAW_RETURN_IF_ERROR(tokens->Reload());
  return tokens;
}

absl::Status AccessTokens::Reload() {
  THAW_ASSIGN_OR_RETURN(std::vector<Entry> entries, ReadFiles());
  MutexLock lock(mutex_);
  entries_ = std::move(entries);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<AccessTokens::Entry>> AccessTokens::ReadFiles() const {
  std::vector<Entry> entries;
  THAW_ASSIGN_OR_RETURN(const std::string admin, ReadOrMakeToken(data_dir_ + "/access_token"));
  THAW_ASSIGN_OR_RETURN(const std::string worker, ReadOrMakeToken(data_dir_ + "/worker_token"));
  entries.push_back({Sha256Hex(admin), {Role::kAdmin, "admin"}});
  entries.push_back({Sha256Hex(worker), {Role::kWorker, "worker"}});
  if (owners_file_.empty()) return entries;
  THAW_ASSIGN_OR_RETURN(const std::string text, ReadFile(owners_file_, 16 << 20));
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    const std::vector<std::string> parts = absl::StrSplit(line, ':');
    if (parts.size() != 2 || !IsOwnerName(parts[0]) || parts[1].size() != 64 ||
        parts[0] == "admin" || parts[0] == "worker") {
      return absl::InvalidArgumentError(
          absl::StrCat(owners_file_, ", line ", number,
                       ": expected owner:sha256, with an owner of [a-z0-9._-] that is not admin or "
                       "worker and a token's SHA-256 in 64 hex digits"));
    }
    entries.push_back({absl::AsciiStrToLower(parts[1]), {Role::kOwner, parts[0]}});
  }
  return entries;
}

std::optional<Identity> AccessTokens::Identify(absl::string_view token) const {
  const std::string hash = Sha256Hex(token);
  std::optional<Identity> found;
  MutexLock lock(mutex_);
  // All are compared, so that time tells nothing about which one it was.
  for (const Entry& entry : entries_) {
    if (EqualInConstantTime(hash, entry.sha256)) found = entry.identity;
  }
  return found;
}

}  // namespace thaw
