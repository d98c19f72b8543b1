// Small feed-forward layers inside every block (docs/added_parts.md).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "thaw/v1/added_part.pb.h"
#include "worker/model/model.h"

namespace thaw {

// As AddPart, of which this is a part.
absl::Status AddBottlenecks(const v1::BottleneckAdapter& adapter, uint64_t seed, Model* model);

}  // namespace thaw
