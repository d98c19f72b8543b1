// Which parameters a phase trains.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "thaw/v1/job_spec.pb.h"
#include "worker/model/group.h"

namespace thaw {

// The names that `selector` chooses among `groups` (embeddings, blocks, head), in their order;
// never empty. INVALID_ARGUMENT, with the field and its remedy, for a selector that is not set,
// asks for more blocks than there are, holds an expression that RE2 cannot take, or matches
// nothing.
absl::StatusOr<std::vector<std::string>> SelectParameters(const v1::Selector& selector,
                                                          std::span<const Group> groups);

}  // namespace thaw
