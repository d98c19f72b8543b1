#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "common/base/id.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/base/unique_fd.h"
#include "common/safetensors/safetensors.h"
#include "nlohmann/json.hpp"

namespace thaw {
namespace {

absl::Status WriteBytes(int fd, const void* data, size_t size, const std::string& path) {
  const char* next = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = write(fd, next, std::min(size, size_t{64} << 20));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, absl::StrCat("writing ", path));
    next += written;
    size -= static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

int64_t DataBytes(const TensorToWrite& tensor) {
  int64_t bytes = ElementBytes(tensor.type);
  for (int64_t size : tensor.shape) bytes *= size;
  return bytes;
}

std::string HeaderText(const std::vector<TensorToWrite>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const TensorToWrite& tensor : tensors) {
    const int64_t end = offset + DataBytes(tensor);
    const nlohmann::ordered_json info = {{"dtype", std::string(ElementTypeName(tensor.type))},
                                         {"shape", tensor.shape},
                                         {"data_offsets", {offset, end}}};
    // Looking for the name, as operator[] does, would take the square of their number.
    header.get_ref<nlohmann::ordered_json::object_t&>().push_back({tensor.name, info});
    offset = end;
  }
  std::string text = header.dump();
  // The reference pads to 8 bytes; to 64, a reader's mapped tensors begin on a cache line.
  text.resize((8 + text.size() + 63) / 64 * 64 - 8, ' ');
  std::string prefix(8, '\0');
  for (size_t i = 0; i < 8; ++i) prefix[i] = static_cast<char>(text.size() >> (8 * i));
  return prefix + text;
}

// Widest elements first, so that all data is aligned to its type. INVALID_ARGUMENT for a name that
// is there twice.
absl::Status SortForFile(const std::string& path, std::vector<TensorToWrite>* tensors) {
  std::sort(tensors->begin(), tensors->end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    const int64_t wide_a = ElementBytes(a.type), wide_b = ElementBytes(b.type);
    return wide_a != wide_b ? wide_a > wide_b : a.name < b.name;
  });
  for (size_t i = 1; i < tensors->size(); ++i) {
    if ((*tensors)[i].name == (*tensors)[i - 1].name) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor \"", (*tensors)[i].name, "\" is to be written twice"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteSafetensors(const std::string& path, std::vector<TensorToWrite> tensors,
                              const std::map<std::string, std::string>& metadata) {
  THAW_RETURN_IF_ERROR(SortForFile(path, &tensors));
  const std::string temporary = absl::StrCat(path, ".tmp-", RandomId());
  UniqueFd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("creating ", temporary));
  const std::string header = HeaderText(tensors, metadata);
  absl::Status status = WriteBytes(fd.get(), header.data(), header.size(), temporary);
  for (const TensorToWrite& tensor : tensors) {
    if (!status.ok()) break;
    status = WriteBytes(fd.get(), tensor.data, static_cast<size_t>(DataBytes(tensor)), temporary);
  }
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0)
    status = ErrnoStatus(errno, absl::StrCat("renaming to ", path));
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

absl::StatusOr<std::string> DigestOfSafetensors(
    std::vector<TensorToWrite> tensors, const std::map<std::string, std::string>& metadata) {
  THAW_RETURN_IF_ERROR(SortForFile("a digest", &tensors));
  Sha256 digest;
  digest.Update(HeaderText(tensors, metadata));
  for (const TensorToWrite& tensor : tensors) {
    digest.Update(absl::string_view(static_cast<const char*>(tensor.data),
                                    static_cast<size_t>(DataBytes(tensor))));
  }
  return digest.HexDigest();
}

}  // namespace thaw
