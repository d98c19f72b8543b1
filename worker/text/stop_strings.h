// Ends generated text at a stop string without ever showing a part of one.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace thaw {

// Takes generated text piece by piece and gives back what may be shown. The text ends where the
// stop string that is complete first begins (of those complete at once, the one that begins
// first), however the text was cut into pieces. Not for several threads at once.
class StopStrings {
 public:
  // INVALID_ARGUMENT for an empty stop string, or one of over 1024 bytes. None: nothing is held.
  static absl::StatusOr<StopStrings> Create(std::vector<std::string> stops);

  // What `piece` makes certain. Empty once stopped().
  std::string Push(std::string_view piece);
  // What was held back because it could have become a stop string; call it when generation ends.
  std::string Finish();

  // A stop string was found: generation may end, and no more text comes.
  bool stopped() const { return match_ >= 0; }
  // Its index in `stops`, -1 before.
  int match() const { return match_; }

 private:
  explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  std::vector<std::string> stops_;
  std::string held_;  // shorter than the longest stop string
  int match_ = -1;
};

}  // namespace thaw
