#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace thaw {

// Parses one JSON text strictly: UTF-8, no duplicate keys (the parser alone would keep the last),
// no depth over `max_depth`, nothing after the value. INVALID_ARGUMENT says where.
absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text, int max_depth = 64);

// ReadFile and ParseJson; errors begin with the path.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path);

}  // namespace thaw
