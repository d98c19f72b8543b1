// "quantization_config" of a config.json, as transformers writes it for bitsandbytes.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace thaw {

inline constexpr char kQuantisationField[] = "quantization_config";

// That linear layers are in NF4.
struct Nf4Config {
  bool nested = true;  // of what is quantised anew: scales in 8 bits
};

// Refuses, by name, what is not NF4 of bitsandbytes in bytes. In what element type others are to
// compute is not looked at: here the run says so.
absl::StatusOr<Nf4Config> ParseQuantisation(const nlohmann::json& json);

// What transformers loads a model by whose linear layers are in NF4, but for those of `others`.
nlohmann::json QuantisationJson(const Nf4Config& config, const std::vector<std::string>& others);

}  // namespace thaw
