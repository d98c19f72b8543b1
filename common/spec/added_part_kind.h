// What the kind of an added part decides.
#pragma once

#include <cstdint>

#include "thaw/v1/added_part.pb.h"

namespace thaw {

// How many positions of the model the part takes; 0 for kinds that take none.
inline int32_t VirtualTokens(const v1::AddedPart& part) {
  return part.has_prompt_tuning() ? part.prompt_tuning().virtual_tokens()
                                  : part.prefix_tuning().virtual_tokens();
}

// It is a change of weights, into which it can be computed.
inline bool CanBeMerged(const v1::AddedPart& part) {
  return !part.has_prompt_tuning() && !part.has_prefix_tuning() && !part.has_bottleneck();
}

}  // namespace thaw
