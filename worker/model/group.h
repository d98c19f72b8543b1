#pragma once

#include <string>
#include <vector>

namespace thaw {

// An ordered slice of a model that freezes as one.
struct Group {
  std::string name;                     // "embeddings", "block.0", …, "head"
  std::vector<std::string> parameters;  // canonical names
};

}  // namespace thaw
