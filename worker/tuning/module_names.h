// Modules of a model by name, as PEFT's configurations and our AddedPart name them.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/map.h"

namespace thaw {

// `target` is the whole name, or what follows a dot at its end.
bool NamesModule(absl::string_view module, absl::string_view target);

// The (at most three) `names` that a slip of the pen may have turned `wanted` into, compared with
// the whole names and with what follows a dot in them; best first.
std::vector<std::string> NearestModules(absl::string_view wanted,
                                        std::span<const std::string> names);

// The value of the one expression that matches the end of `module` after a dot, or all of it;
// `otherwise` without one. INVALID_ARGUMENT, naming `field`, for what is no RE2 expression and for
// two that match with different values.
template <typename Value>
absl::StatusOr<Value> ByPattern(absl::string_view field,
                                const google::protobuf::Map<std::string, Value>& patterns,
                                absl::string_view module, Value otherwise);

}  // namespace thaw
