#include "worker/training/checkpoint.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fcntl.h>
#include <google/protobuf/util/json_util.h>
#include <stdio.h>
#include <torch/version.h>

#include <cerrno>
#include <fstream>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "worker/kernels/kernels.h"
#include "worker/model/tensor_view.h"
#include "worker/training/run_precision.h"

namespace thaw {
namespace {

// Where texts are read on in lanes; else 1, which older trainers go on from too.
constexpr int kLanesFormat = 2;
constexpr char kStateFile[] = "checkpoint.json";
constexpr char kWeightsFile[] = "weights.safetensors";
constexpr char kMomentsFile[] = "moments.safetensors";
constexpr char kBestFile[] = "best.safetensors";
constexpr char kCarriedFile[] = "carried.safetensors";
constexpr char kFirstMoment[] = ".exp_avg";
constexpr char kSecondMoment[] = ".exp_avg_sq";

absl::Status WriteTensors(const std::string& path, const TensorsByName& tensors) {
  std::vector<TensorToWrite> list;
  for (const auto& [name, tensor] : tensors) list.push_back(ToWrite(name, tensor));
  return WriteSafetensors(path, std::move(list));
}

absl::StatusOr<TensorsByName> ReadTensors(const std::string& path) {
  THAW_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(path));
  TensorsByName result;
  for (const TensorInfo& info : file->tensors()) {
    result[info.name] = ViewTensor(file, info).clone();
  }
  return result;
}

bool IsReadOn(const internal::Checkpoint& state) {
  return state.data().lanes() > 0 && state.data().position() > 0;
}

absl::Status WriteFiles(const std::string& directory, const CheckpointContents& contents,
                        const TensorsByName& moments) {
  THAW_RETURN_IF_ERROR(WriteTensors(directory + "/" + kWeightsFile, contents.weights));
  THAW_RETURN_IF_ERROR(WriteTensors(directory + "/" + kMomentsFile, moments));
  if (contents.state.best_weights() == internal::OWN_FILE) {
    THAW_RETURN_IF_ERROR(WriteTensors(directory + "/" + kBestFile, contents.best));
  }
  if (IsReadOn(contents.state)) {
    THAW_RETURN_IF_ERROR(WriteTensors(directory + "/" + kCarriedFile, contents.carried));
  }
  std::string json;
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  const auto status = google::protobuf::util::MessageToJsonString(contents.state, &json, options);
  if (!status.ok()) return absl::InternalError(std::string(status.message()));
  std::ofstream file(directory + "/" + kStateFile, std::ios::binary);
  file << json;
  file.close();
  if (!file) return absl::ResourceExhaustedError(absl::StrCat(directory, " cannot be written to"));
  return absl::OkStatus();
}

absl::StatusOr<MomentsByName> PairMoments(const TensorsByName& tensors,
                                          const internal::Checkpoint& state) {
  MomentsByName result;
  for (const auto& [name, updates] : state.moment_steps()) {
    const auto first = tensors.find(name + kFirstMoment);
    const auto second = tensors.find(name + kSecondMoment);
    if (first == tensors.end() || second == tensors.end()) {
      return absl::InvalidArgumentError(absl::StrCat(kMomentsFile, " lacks the moments of ", name));
    }
    result[name] = {first->second, second->second, updates};
  }
  return result;
}

}  // namespace

absl::Status WriteCheckpoint(const std::string& directory, CheckpointContents contents) {
  contents.state.set_format_version(contents.state.data().lanes() > 0 ? kLanesFormat : 1);
  TensorsByName moments;
  for (const auto& [name, moment] : contents.moments) {
    moments[name + kFirstMoment] = moment.first;
    moments[name + kSecondMoment] = moment.second;
    (*contents.state.mutable_moment_steps())[name] = moment.updates;
  }
  const std::string partial = directory + ".partial";
  THAW_RETURN_IF_ERROR(RemoveTree(partial));
  THAW_RETURN_IF_ERROR(MakeDirectories(partial));
  THAW_RETURN_IF_ERROR(WriteFiles(partial, contents, moments));
  // Nothing is fsynced: a checkpoint counts once the server has taken it over, and a host that dies
  // before that loses the attempt with it.
  if (renameat2(AT_FDCWD, partial.c_str(), AT_FDCWD, directory.c_str(), RENAME_NOREPLACE) != 0) {
    return ErrnoStatus(errno, absl::StrCat("renaming ", partial));
  }
  return absl::OkStatus();
}

absl::StatusOr<CheckpointContents> ReadCheckpoint(const std::string& directory) {
  const std::string path = directory + "/" + kStateFile;
  THAW_ASSIGN_OR_RETURN(const std::string json, ReadFile(path));
  CheckpointContents contents;
  // A later format may have fields that are unknown here; its version is looked at first.
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  const auto parsed = google::protobuf::util::JsonStringToMessage(json, &contents.state, options);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is no checkpoint state: ", std::string(parsed.message())));
  }
  if (contents.state.format_version() < 1 || contents.state.format_version() > kLanesFormat) {
    return absl::InvalidArgumentError(absl::StrCat(path, " has format version ",
                                                   contents.state.format_version(),
                                                   ", this trainer reads 1 to ", kLanesFormat));
  }
  THAW_ASSIGN_OR_RETURN(contents.weights, ReadTensors(directory + "/" + kWeightsFile));
  THAW_ASSIGN_OR_RETURN(const TensorsByName moments, ReadTensors(directory + "/" + kMomentsFile));
  THAW_ASSIGN_OR_RETURN(contents.moments, PairMoments(moments, contents.state));
  if (contents.state.best_weights() == internal::OWN_FILE) {
    THAW_ASSIGN_OR_RETURN(contents.best, ReadTensors(directory + "/" + kBestFile));
  }
  if (IsReadOn(contents.state)) {
    THAW_ASSIGN_OR_RETURN(contents.carried, ReadTensors(directory + "/" + kCarriedFile));
  }
  return contents;
}

internal::Fingerprint CurrentFingerprint(bool half) {
  internal::Fingerprint result;
  result.set_threads(at::get_num_threads());
  switch (Kernels().instruction_set) {
    case InstructionSet::kGeneric:
      result.set_instruction_set("generic");
      break;
    case InstructionSet::kAvx2:
      result.set_instruction_set("avx2");
      break;
    case InstructionSet::kAvx512:
    case InstructionSet::kAmx:  // the same bits but in bf16, of which more below
      result.set_instruction_set("avx512");
      break;
  }
  result.set_libtorch_instruction_set(at::get_cpu_capability());
  result.set_libtorch_version(TORCH_VERSION);
  result.set_thaw_version(THAW_VERSION);
  if (half) result.set_half_instruction_set(std::string(HalfInstructionSet()));
  return result;
}

std::string FingerprintDifference(const internal::Fingerprint& then,
                                  const internal::Fingerprint& now) {
  std::string result;
  const auto compare = [&result](const char* what, const absl::AlphaNum& a,
                                 const absl::AlphaNum& b) {
    if (a.Piece() != b.Piece()) absl::StrAppend(&result, "; ", what, " ", a, ", now ", b);
  };
  compare("threads", then.threads(), now.threads());
  compare("instruction set", then.instruction_set(), now.instruction_set());
  compare("LibTorch's instruction set", then.libtorch_instruction_set(),
          now.libtorch_instruction_set());
  compare("instructions for bf16", then.half_instruction_set(), now.half_instruction_set());
  compare("LibTorch", then.libtorch_version(), now.libtorch_version());
  compare("Thaw", then.thaw_version(), now.thaw_version());
  return std::string(absl::StripPrefix(result, "; "));
}

}  // namespace thaw
