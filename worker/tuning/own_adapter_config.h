// adapter_config.json of the parts that PEFT has not, in a form of our own (docs/added_parts.md).
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "thaw/v1/added_part.pb.h"

namespace thaw {

// Its mark, the version of the form, which no configuration of PEFT has.
inline constexpr char kOwnFormatField[] = "thaw_format";

// INVALID_ARGUMENT, naming field and value, for another version, fields that are not known and
// values out of bounds.
absl::StatusOr<v1::AddedPart> ParseOwnAdapterConfig(const nlohmann::json& source);

// `base_model` is where the base came from, `saved` the base's modules that are stored too.
std::string OwnAdapterConfigJson(const v1::BottleneckAdapter& adapter,
                                 const std::string& base_model,
                                 const std::vector<std::string>& saved);

}  // namespace thaw
