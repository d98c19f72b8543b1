// Results that hold only what differs from their base model (docs/delta_format.md): written by the
// trainer, read by it and by whoever wants all weights back.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/safetensors/safetensors.h"

namespace thaw {

inline constexpr char kDeltaFile[] = "delta.json";
inline constexpr char kDeltaWeightsFile[] = "delta.safetensors";
inline constexpr int64_t kMaxDeltaFileBytes = 16 << 20;  // of delta.json

// A tensor of a model, wherever its bytes lie.
struct TensorOfModel {
  std::string name;  // in the model
  std::shared_ptr<const SafetensorsFile> file;
  const TensorInfo* info = nullptr;  // in `file`
};

// A tensor that is to be written, and the name under which the base may have its bytes.
struct TensorForDelta {
  TensorToWrite tensor;
  std::string base_name;
};

// Writes delta.json and delta.safetensors into `directory`: what the base's weights in
// `base_directory` have, bit by bit, is named only. `base_digest` is the base's Artifact.digest.
absl::Status WriteDelta(const std::string& directory, const std::string& base_digest,
                        const std::string& base_directory,
                        const std::vector<TensorForDelta>& tensors);

// Whether the directory holds a delta.
bool HoldsDelta(const std::string& directory);

// The digest of the base that the delta in `directory` is for. INVALID_ARGUMENT, naming the file,
// for what is no delta.json of this version.
absl::StatusOr<std::string> DeltaBaseDigest(const std::string& directory);

// Every tensor of the model that `directory` stands for, sorted by name; `base_directory` holds the
// base's weights. INVALID_ARGUMENT names file and tensor where one is missing.
absl::StatusOr<std::vector<TensorOfModel>> OpenDelta(const std::string& directory,
                                                     const std::string& base_directory);

// Writes the model.safetensors that both directories stand for to `path`. DATA_LOSS if its bytes
// are not those that the delta was made of.
absl::Status RebuildWeights(const std::string& directory, const std::string& base_directory,
                            const std::string& path);

}  // namespace thaw
