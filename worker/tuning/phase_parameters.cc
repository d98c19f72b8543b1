#include "worker/tuning/phase_parameters.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/tuning/rate_groups.h"
#include "worker/tuning/selector.h"

namespace thaw {

absl::StatusOr<PhaseParameters> ParametersOf(absl::string_view field, const v1::Phase& phase,
                                             std::span<const Group> groups,
                                             const Parameters& parameters) {
  PhaseParameters result;
  THAW_ASSIGN_OR_RETURN(result.names, SelectParameters(absl::StrCat(field, ".selector"),
                                                       phase.selector(), groups, parameters));
  for (const std::string& name : result.names) {
    if (!parameters.Find(name)->compressed) continue;
    return InvalidField(absl::StrCat(field, ".selector"),
                        absl::StrCat("{", phase.selector().ShortDebugString(), "} trains ", name,
                                     ", which base_weights NF4 (or the base model itself) keeps in "
                                     "fewer bits, frozen: train an added part, leave it out by "
                                     "and_not, or give base_weights AS_LOADED"));
  }
  const std::vector<double> rates = PeakRates(phase, static_cast<int>(groups.size()));
  std::map<std::string, size_t> places;
  for (const std::string& name : result.names) {
    places.emplace(name, result.rates.size());
    result.rates.push_back(rates[parameters.Find(name)->group]);
  }
  for (int i = 0; i < phase.rate_overrides_size(); ++i) {
    const v1::RateOverride& one = phase.rate_overrides(i);
    const std::string at = absl::StrCat(field, ".rate_overrides[", i, "].selector");
    THAW_ASSIGN_OR_RETURN(const std::vector<std::string> chosen,
                          SelectParameters(at, one.selector(), groups, parameters));
    bool trains = false;
    for (const std::string& name : chosen) {
      const auto place = places.find(name);
      if (place == places.end()) continue;
      trains = true;
      result.rates[place->second] = one.learning_rate();
    }
    if (!trains) {
      return InvalidField(
          at,
          absl::StrCat("{", one.selector().ShortDebugString(),
                       "} chooses nothing that the phase trains, only such as \"", chosen.front(),
                       "\"; the phase trains such as \"", result.names.back(), "\""));
    }
  }
  for (size_t i = 0; i < result.names.size(); ++i) {
    double& highest = result.group_rates[parameters.Find(result.names[i])->group];
    highest = std::max(highest, result.rates[i]);
  }
  return result;
}

}  // namespace thaw
