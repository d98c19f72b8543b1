// Runs the built `thaw` as a user does.
#pragma once

#include <string>
#include <vector>

namespace thaw {

struct ProgramRun {
  int exit_code = -1;
  std::string out;
  std::string err;
};

// The built programs' directory, from THAW_BIN.
std::string ProgramDirectory();

// Runs `program` with `arguments` and, beside the test's own, `environment` ("NAME=value").
ProgramRun RunProgram(const std::string& program, const std::vector<std::string>& arguments,
                      const std::vector<std::string>& environment);

}  // namespace thaw
