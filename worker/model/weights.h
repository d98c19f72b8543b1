// The tensors of a model directory under their canonical names, taken one by one by an
// architecture.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/delta/delta.h"
#include "worker/model/parameters.h"

namespace thaw {

// In a model directory that a trainer has joined: a delta, and the base that it builds on, as
// directories or links to them. Nothing that is uploaded has such names.
inline constexpr char kDeltaPart[] = ".delta";
inline constexpr char kBasePart[] = ".base";

// The tensors of a model directory: of model.safetensors or its shards, or of these two parts.
absl::StatusOr<std::vector<TensorOfModel>> TensorsIn(const std::string& directory);

class Weights {
 public:
  // `base_prefix`, such as "bert.", is put before names that lack it where they begin with one of
  // `base_parts`; LayerNorm's old names gamma and beta become weight and bias. INVALID_ARGUMENT if
  // two tensors end up with one name.
  static absl::StatusOr<Weights> Open(const std::string& directory, const std::string& base_prefix,
                                      const std::vector<std::string>& base_parts);

  // The same with names of any other making: `canonical` gives the canonical name of each.
  static absl::StatusOr<Weights> Open(
      const std::string& directory,
      const std::function<std::string(const std::string& name)>& canonical);
  // Whether the directory holds any weights.
  static bool AreIn(const std::string& directory);
  Weights() = default;  // none

  bool Has(const std::string& name) const { return found_.count(name) > 0; }

  // fp32 of exactly `shape`: over the mapping where the file allows it, else a copy. Errors name
  // file, tensor, expected and found.
  absl::StatusOr<TensorSource> Take(const std::string& name, const std::vector<int64_t>& shape);

  // The same of the file's own element type where that is bf16 or fp16.
  absl::StatusOr<TensorSource> TakeStored(const std::string& name,
                                          const std::vector<int64_t>& shape);

  // The same of another element type, which must be the file's own.
  absl::StatusOr<TensorSource> TakeAs(const std::string& name, const std::vector<int64_t>& shape,
                                      torch::ScalarType type);

  // Counts as taken, if it is there: a copy of another tensor.
  void Leave(const std::string& name) { taken_.insert(name); }

  // Whether Take would succeed with this shape.
  bool Fits(const std::string& name, const std::vector<int64_t>& shape) const;

  const std::string& directory() const { return directory_; }

  // Canonical names that nobody took.
  std::vector<std::string> Rest() const;

 private:
  std::string directory_;
  std::map<std::string, TensorOfModel> found_;
  std::set<std::string> taken_;
};

}  // namespace thaw
