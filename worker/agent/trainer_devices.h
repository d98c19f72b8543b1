#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace thaw {

// What the trainer program says that it can compute on: "cpu", "cuda". Runs `program --devices` in
// a trainer's environment and waits for at most `seconds`. FAILED_PRECONDITION if it cannot be run,
// says nothing, fails or takes too long.
absl::StatusOr<std::vector<std::string>> AskTrainerDevices(const std::string& program,
                                                           double seconds = 60);

}  // namespace thaw
