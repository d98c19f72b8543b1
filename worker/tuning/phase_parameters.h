// What a phase trains, and how fast.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "thaw/v1/job_spec.pb.h"
#include "worker/model/group.h"
#include "worker/model/parameters.h"

namespace thaw {

struct PhaseParameters {
  std::vector<std::string> names;     // in the order of the groups
  std::vector<double> rates;          // peak learning rate of each of them
  std::map<int, double> group_rates;  // of each group that trains, by its index: its highest one
  // That of the topmost group.
  double peak_rate() const { return group_rates.rbegin()->second; }
};

// Of `phase`, which is `field` of a resolved spec: what its selector chooses, at the rates of the
// groups (PeakRates) or, where one of rate_overrides chooses a parameter, at the last such one's.
// INVALID_ARGUMENT as SelectParameters, for what is compressed and so cannot be trained, and for an
// override that chooses nothing that trains.
absl::StatusOr<PhaseParameters> ParametersOf(absl::string_view field, const v1::Phase& phase,
                                             std::span<const Group> groups,
                                             const Parameters& parameters);

}  // namespace thaw
