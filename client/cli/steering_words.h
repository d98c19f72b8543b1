// Steering as people say it.
#pragma once

#include <string>

#include "thaw/v1/steering.pb.h"

namespace thaw {

// What is asked for: "the next phase", "rates times 0.5".
std::string SteeringWords(const v1::Steering& action);
// "asked for (3): the next phase"
std::string AskedWords(const v1::SteeringRecord& record);
// "done after step 120 (3): the next phase", of a replay "done after step 120 as in the run before:
// …".
std::string AppliedWords(const v1::SteeringRecord& record);

}  // namespace thaw
