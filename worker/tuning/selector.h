// Which parameters a phase trains.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "thaw/v1/job_spec.pb.h"
#include "worker/model/group.h"
#include "worker/model/parameters.h"

namespace thaw {

// The names that `selector`, which is `field` of a spec, chooses of what `groups` (embeddings,
// blocks, head) hold, in their order; never empty. `parameters` has all of them.
//
// INVALID_ARGUMENT, with the field and its remedy, for a selector that is not set, asks for more
// blocks than there are or holds an expression that RE2 cannot take; and for one that chooses
// nothing, also inside of any_of and and_not, with the names or kinds that are nearest to it.
absl::StatusOr<std::vector<std::string>> SelectParameters(absl::string_view field,
                                                          const v1::Selector& selector,
                                                          std::span<const Group> groups,
                                                          const Parameters& parameters);

}  // namespace thaw
