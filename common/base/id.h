#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace thaw {

// 128 bits from the kernel as 32 hex digits. Used as identity and as fence, so never predictable,
// never reused.
std::string RandomId();

// "<prefix>-<16 hex digits>": what people type, such as job-5f0c….
std::string NewId(absl::string_view prefix);

std::string HexEncode(absl::string_view bytes);

}  // namespace thaw
