#pragma once

#include "absl/strings/string_view.h"

namespace thaw {

// Whether models of this type compute and are held in fp32 alone: neither bf16 nor NF4. The
// server and the trainer ask here both.
inline bool IsFp32Only(absl::string_view model_type) { return model_type == "awd_lstm"; }

}  // namespace thaw
