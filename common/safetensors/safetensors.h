// The safetensors format (https://github.com/huggingface/safetensors), read strictly and written
// as the reference implementation does.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace thaw {

enum class ElementType {
  kBool,
  kU8,
  kI8,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kF64,
  kI64,
  kU64
};
absl::string_view ElementTypeName(ElementType type);  // "F32"
int64_t ElementBytes(ElementType type);

struct TensorInfo {
  std::string name;
  ElementType type = ElementType::kF32;
  std::vector<int64_t> shape;  // rank <= 8
  int64_t begin = 0;           // bytes from the start of the data
  int64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;              // in the order of their data
  std::map<std::string, std::string> metadata;  // "__metadata__"
  int64_t data_offset = 0;                      // of the data in the file, bytes
};

// Checks a whole file's bytes: header of at most 16 MiB, no key twice, nothing unknown, shapes and
// offsets that agree without overflow, data that tensors cover without hole, overlap or rest.
// INVALID_ARGUMENT names file, tensor, what was expected and what found.
absl::StatusOr<SafetensorsHeader> ParseSafetensors(absl::string_view bytes, absl::string_view file);

// A file mapped read-only: its pages are shared with other processes and with the page cache. Lives
// as long as anybody holds it; thread-safe.
class SafetensorsFile {
 public:
  static absl::StatusOr<std::shared_ptr<const SafetensorsFile>> Open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return path_; }
  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  int64_t header_bytes() const { return header_.data_offset; }
  // nullptr if there is none of that name.
  const TensorInfo* Find(absl::string_view name) const;
  const void* Data(const TensorInfo& tensor) const;
  // The tensor's pages leave this process's memory, but for those that it shares with others; they
  // come back from the file when they are read.
  void Forget(const TensorInfo& tensor) const;

 private:
  SafetensorsFile() = default;

  std::string path_;
  void* mapping_ = nullptr;
  size_t size_ = 0;
  SafetensorsHeader header_;
  absl::flat_hash_map<absl::string_view, const TensorInfo*> by_name_;
};

// A tensor to be written; `data` are its contiguous elements, which the caller keeps.
struct TensorToWrite {
  std::string name;
  ElementType type = ElementType::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
};

// Writes to a sibling and renames it over `path`; nothing is copied on the way. Not fsynced: what a
// trainer writes counts only once the server has taken it over, and that fsyncs its own copy.
absl::Status WriteSafetensors(const std::string& path, std::vector<TensorToWrite> tensors,
                              const std::map<std::string, std::string>& metadata = {
                                  {"format", "pt"}});

// SHA-256, in lower-case hex, of the file that WriteSafetensors would write.
absl::StatusOr<std::string> DigestOfSafetensors(
    std::vector<TensorToWrite> tensors,
    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

// The weights of a model directory: model.safetensors, or the shards that
// model.safetensors.index.json lists, each tensor in exactly the shard that the index names.
absl::StatusOr<std::vector<std::shared_ptr<const SafetensorsFile>>> OpenWeights(
    const std::string& directory);

}  // namespace thaw
