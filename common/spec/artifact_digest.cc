#include "common/spec/artifact_digest.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"

namespace thaw {

std::string DigestOfFiles(const google::protobuf::RepeatedPtrField<v1::File>& files) {
  std::vector<std::string> lines;
  for (const v1::File& file : files) {
    lines.push_back(absl::StrCat(file.sha256(), "  ", file.path(), "\n"));
  }
  std::sort(lines.begin(), lines.end());
  Sha256 hash;
  for (const std::string& line : lines) hash.Update(line);
  return hash.HexDigest();
}

}  // namespace thaw
