#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "common/base/unique_fd.h"
#include "common/safetensors/safetensors.h"

namespace thaw {
namespace {

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

absl::StatusOr<std::map<std::string, std::set<std::string>>> ReadShardIndex(
    const std::string& path) {
  THAW_ASSIGN_OR_RETURN(const nlohmann::json index, ReadJsonFile(path));
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": \"weight_map\" is not an object"));
  }
  std::map<std::string, std::set<std::string>> names_by_file;
  for (const auto& [name, value] : map->items()) {
    const std::string file = value.is_string() ? value.get<std::string>() : "";
    if (!IsSafeRelativePath(file) || absl::StrContains(file, "/") ||
        !absl::EndsWith(file, ".safetensors")) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": tensor \"", name, "\": expected a .safetensors file beside the index, found ",
          value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
    }
    names_by_file[file].insert(name);
  }
  return names_by_file;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::Open(
    const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("opening ", path));
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, absl::StrCat("reading ", path));
  if (!S_ISREG(info.st_mode) || info.st_size < 8) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": expected a file of at least 8 bytes, found ", info.st_size));
  }
  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->path_ = path;
  file->size_ = static_cast<size_t>(info.st_size);
  void* mapping = mmap(nullptr, file->size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (mapping == MAP_FAILED) return ErrnoStatus(errno, absl::StrCat("mapping ", path));
  file->mapping_ = mapping;
  THAW_ASSIGN_OR_RETURN(
      file->header_,
      ParseSafetensors(absl::string_view(static_cast<const char*>(mapping), file->size_), path));
  // A hostile header names hundreds of thousands.
  for (const TensorInfo& tensor : file->header_.tensors) file->by_name_[tensor.name] = &tensor;
  return std::shared_ptr<const SafetensorsFile>(std::move(file));
}

SafetensorsFile::~SafetensorsFile() {
  if (mapping_ != nullptr) munmap(mapping_, size_);
}

const TensorInfo* SafetensorsFile::Find(absl::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

const void* SafetensorsFile::Data(const TensorInfo& tensor) const {
  return static_cast<const char*>(mapping_) + header_.data_offset + tensor.begin;
}

void SafetensorsFile::Forget(const TensorInfo& tensor) const {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto data = reinterpret_cast<uintptr_t>(Data(tensor));
  const uintptr_t begin = (data + page - 1) / page * page;
  const uintptr_t end = (data + static_cast<uintptr_t>(tensor.end - tensor.begin)) / page * page;
  // Where the kernel does not want to, they stay.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

absl::StatusOr<std::vector<std::shared_ptr<const SafetensorsFile>>> OpenWeights(
    const std::string& directory) {
  std::vector<std::shared_ptr<const SafetensorsFile>> files;
  const std::string single = absl::StrCat(directory, "/", kSingleFile);
  const std::string index = absl::StrCat(directory, "/", kIndexFile);
  if (Exists(single)) {
    THAW_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(single));
    files.push_back(std::move(file));
    return files;
  }
  if (!Exists(index)) {
    return absl::NotFoundError(absl::StrCat(
        directory, ": found neither ", kSingleFile, " nor ", kIndexFile,
        "; other formats (pickle above all) are not opened: convert the weights to safetensors"));
  }
  THAW_ASSIGN_OR_RETURN(const auto names_by_file, ReadShardIndex(index));
  for (const auto& [name, names] : names_by_file) {
    THAW_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(absl::StrCat(directory, "/", name)));
    for (const TensorInfo& tensor : file->tensors()) {
      if (names.count(tensor.name) == 0) {
        return absl::InvalidArgumentError(absl::StrCat(file->path(), ": tensor \"", tensor.name,
                                                       "\" is not of this shard by ", index));
      }
    }
    if (file->tensors().size() != names.size()) {
      for (const std::string& wanted : names) {
        if (file->Find(wanted) != nullptr) continue;
        return absl::InvalidArgumentError(absl::StrCat(file->path(), ": tensor \"", wanted,
                                                       "\" is missing, but ", index, " lists it"));
      }
    }
    files.push_back(std::move(file));
  }
  return files;
}

}  // namespace thaw
