#pragma once

#include <string>
#include <vector>

namespace thaw {

// A command with what may follow it.
struct CompletionEntry {
  std::string command;  // "submit", "model import"
  std::vector<std::string> words;
};

// A bash script that completes commands, their flags and, after a flag that takes a file, names of
// files.
std::string BashCompletion(const std::vector<CompletionEntry>& entries);

}  // namespace thaw
