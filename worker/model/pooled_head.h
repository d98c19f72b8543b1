// A classifier on pooled hidden states, in the place of a family's own: what config.json says of it
// under "thaw_pooled_head" (docs/pooled_head_format.md).
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace thaw {

inline constexpr char kPooledHeadField[] = "thaw_pooled_head";
// What the names of its tensors begin with.
inline constexpr char kPooledHeadScope[] = "pooled_head.";

// How the hidden states of a text become one vector.
enum class Pooling { kMean, kCls, kLast, kMax };

struct PooledHeadConfig {
  // Hidden states after so many blocks; of all of them: after the final norm. -1: all.
  int64_t blocks = -1;
  Pooling pooling = Pooling::kMean;
  bool normalize = false;   // each vector is divided by its L2 norm
  int64_t hidden_size = 0;  // of a hidden layer with ReLU; 0: none
  double dropout = 0;       // of what the last layer reads

  bool linear() const { return hidden_size == 0; }
};

// Whether the tensors of one mean in the other what they mean in it; dropout is not part of it.
// `blocks` of both must be resolved.
bool SameForm(const PooledHeadConfig& a, const PooledHeadConfig& b);

// INVALID_ARGUMENT naming the field for a value that is wrong, missing or unknown.
absl::StatusOr<PooledHeadConfig> ParsePooledHead(const nlohmann::json& value);
nlohmann::json PooledHeadJson(const PooledHeadConfig& head);

}  // namespace thaw
