#include "common/delta/delta.h"

#include <cstring>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "google/protobuf/util/json_util.h"
#include "thaw/internal/delta.pb.h"

namespace thaw {
namespace {

constexpr int kFormatVersion = 1;
constexpr int kMostTensors = 100'000;

absl::Status NoDelta(const std::string& path, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", why));
}

absl::StatusOr<internal::Delta> ReadDeltaFile(const std::string& directory) {
  const std::string path = absl::StrCat(directory, "/", kDeltaFile);
  THAW_ASSIGN_OR_RETURN(const std::string json, ReadFile(path, kMaxDeltaFileBytes));
  internal::Delta delta;
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;  // the version says whether that misleads
  const auto parsed = google::protobuf::util::JsonStringToMessage(json, &delta, options);
  if (!parsed.ok()) return NoDelta(path, absl::StrCat("is no delta: ", parsed.ToString()));
  if (delta.format_version() != kFormatVersion) {
    return NoDelta(path, absl::StrCat("has format version ", delta.format_version(),
                                      "; this Thaw reads ", kFormatVersion, ": use a newer one"));
  }
  if (delta.tensors_size() > kMostTensors) {
    return NoDelta(path, absl::StrCat("names ", delta.tensors_size(), " tensors; at most ",
                                      kMostTensors, " are taken"));
  }
  for (int i = 1; i < delta.tensors_size(); ++i) {
    if (delta.tensors(i - 1).name() < delta.tensors(i).name()) continue;
    return NoDelta(path, absl::StrCat("tensor \"", delta.tensors(i).name(),
                                      "\" is not in the order of names, or there twice"));
  }
  return delta;
}

using FoundTensors = std::unordered_map<std::string, TensorOfModel>;

FoundTensors ByName(const std::vector<std::shared_ptr<const SafetensorsFile>>& files) {
  FoundTensors found;
  for (const auto& file : files) {
    for (const TensorInfo& info : file->tensors()) found[info.name] = {info.name, file, &info};
  }
  return found;
}

int64_t BytesIn(const FoundTensors& tensors) {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : tensors) bytes += tensor.info->end - tensor.info->begin;
  return bytes;
}

absl::StatusOr<std::vector<TensorOfModel>> FindTensors(const internal::Delta& delta,
                                                       const std::string& directory,
                                                       const std::string& base_directory) {
  THAW_ASSIGN_OR_RETURN(auto own_file,
                        SafetensorsFile::Open(absl::StrCat(directory, "/", kDeltaWeightsFile)));
  THAW_ASSIGN_OR_RETURN(const auto base_files, OpenWeights(base_directory));
  const FoundTensors own = ByName({own_file}), base = ByName(base_files);
  std::vector<TensorOfModel> tensors;
  size_t from_own = 0;
  // Copies of a tensor under several names are tied weights, of which a model has few: a file that
  // names one again and again is no model.
  int64_t left = 2 * (BytesIn(own) + BytesIn(base));
  for (const internal::DeltaTensor& tensor : delta.tensors()) {
    const bool in_base = !tensor.base_name().empty();
    const FoundTensors& place = in_base ? base : own;
    const auto found = place.find(in_base ? tensor.base_name() : tensor.name());
    if (found == place.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(directory, "/", kDeltaFile, ": tensor \"", tensor.name(), "\" is not in ",
                       in_base ? absl::StrCat(base_directory, " under \"", tensor.base_name(), "\"")
                               : own_file->path()));
    }
    from_own += in_base ? 0 : 1;
    left -= found->second.info->end - found->second.info->begin;
    if (left < 0) {
      return NoDelta(absl::StrCat(directory, "/", kDeltaFile),
                     "names tensors of more than twice the bytes that there are");
    }
    tensors.push_back({tensor.name(), found->second.file, found->second.info});
  }
  if (from_own != own.size()) {
    return NoDelta(own_file->path(), absl::StrCat("holds ", own.size(), " tensors, ", kDeltaFile,
                                                  " names ", from_own, " of them"));
  }
  return tensors;
}

bool SameBytes(const TensorToWrite& tensor, const TensorOfModel& other) {
  return tensor.type == other.info->type && tensor.shape == other.info->shape &&
         std::memcmp(tensor.data, other.file->Data(*other.info),
                     static_cast<size_t>(other.info->end - other.info->begin)) == 0;
}

std::vector<TensorToWrite> ToWriteAll(const std::vector<TensorOfModel>& tensors) {
  std::vector<TensorToWrite> written;
  for (const TensorOfModel& tensor : tensors) {
    written.push_back(
        {tensor.name, tensor.info->type, tensor.info->shape, tensor.file->Data(*tensor.info)});
  }
  return written;
}

}  // namespace

absl::Status WriteDelta(const std::string& directory, const std::string& base_digest,
                        const std::string& base_directory,
                        const std::vector<TensorForDelta>& tensors) {
  THAW_ASSIGN_OR_RETURN(const auto base_files, OpenWeights(base_directory));
  const FoundTensors base = ByName(base_files);
  std::vector<TensorToWrite> all, own;
  std::map<std::string, std::string> base_names;
  for (const TensorForDelta& one : tensors) {
    all.push_back(one.tensor);
    const auto found = base.find(one.base_name);
    const bool in_base = found != base.end() && SameBytes(one.tensor, found->second);
    if (!in_base) own.push_back(one.tensor);
    base_names[one.tensor.name] = in_base ? one.base_name : "";
  }
  internal::Delta delta;
  delta.set_format_version(kFormatVersion);
  delta.set_base_digest(base_digest);
  for (const auto& [name, base_name] : base_names) {
    internal::DeltaTensor* tensor = delta.add_tensors();
    tensor->set_name(name);
    tensor->set_base_name(base_name);
  }
  THAW_ASSIGN_OR_RETURN(*delta.mutable_sha256(), DigestOfSafetensors(std::move(all)));
  THAW_RETURN_IF_ERROR(
      WriteSafetensors(absl::StrCat(directory, "/", kDeltaWeightsFile), std::move(own)));
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string json;
  if (!google::protobuf::util::MessageToJsonString(delta, &json, options).ok()) {
    return absl::InternalError("a delta cannot be written as JSON");
  }
  return WriteFileAtomically(absl::StrCat(directory, "/", kDeltaFile), json);
}

bool HoldsDelta(const std::string& directory) {
  return Exists(absl::StrCat(directory, "/", kDeltaFile));
}

absl::StatusOr<std::string> DeltaBaseDigest(const std::string& directory) {
  THAW_ASSIGN_OR_RETURN(const internal::Delta delta, ReadDeltaFile(directory));
  return delta.base_digest();
}

absl::StatusOr<std::vector<TensorOfModel>> OpenDelta(const std::string& directory,
                                                     const std::string& base_directory) {
  THAW_ASSIGN_OR_RETURN(const internal::Delta delta, ReadDeltaFile(directory));
  return FindTensors(delta, directory, base_directory);
}

absl::Status RebuildWeights(const std::string& directory, const std::string& base_directory,
                            const std::string& path) {
  THAW_ASSIGN_OR_RETURN(const internal::Delta delta, ReadDeltaFile(directory));
  THAW_ASSIGN_OR_RETURN(const auto tensors, FindTensors(delta, directory, base_directory));
  THAW_RETURN_IF_ERROR(WriteSafetensors(path, ToWriteAll(tensors)));
  THAW_ASSIGN_OR_RETURN(const FileDigest digest, DigestFile(path));
  if (digest.sha256 == delta.sha256()) return absl::OkStatus();
  THAW_RETURN_IF_ERROR(RemoveTree(path));
  return absl::DataLossError(absl::StrCat(path, " would have SHA-256 ", digest.sha256,
                                          ", the delta was made of ", delta.sha256(),
                                          ": fetch base and delta again"));
}

}  // namespace thaw
