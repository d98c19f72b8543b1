#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace thaw {

// A running SHA-256. Not thread-safe.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Update(absl::string_view bytes);
  // 64 hex digits; ends this object's use.
  std::string HexDigest();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

std::string Sha256Hex(absl::string_view bytes);

struct FileDigest {
  std::string sha256;  // hex
  int64_t size = 0;    // bytes
};
absl::StatusOr<FileDigest> DigestFile(const std::string& path);

// Equality in time that depends on the lengths alone.
bool EqualInConstantTime(absl::string_view a, absl::string_view b);

}  // namespace thaw
