#pragma once

#include <cstdint>
#include <string>

namespace thaw {

// Memory that this process and its children may use together, bytes: the machine's, or the least
// that its control groups allow (version 1 or 2, its own and those around it). Files are looked for
// below `root`.
int64_t UsableMemoryBytes(const std::string& root = "");

}  // namespace thaw
