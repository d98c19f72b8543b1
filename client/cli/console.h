// The one way out of `thaw`: what is printed, and the terminal with its status line. Ids, names and
// messages come from a server or a file, so whatever is written has its control characters
// replaced, line ends aside: nothing steers the terminal but Console itself. `script/lint` asks
// that no other file of this folder writes.
#pragma once

#include <cstdio>
#include <string>

#include "absl/strings/string_view.h"

namespace thaw {

// As printf, to standard output and standard error.
void Print(const char* format, ...) __attribute__((format(printf, 1, 2)));
void PrintError(const char* format, ...) __attribute__((format(printf, 1, 2)));

// The terminal that a command writes to: lines that stay, and one status line that is written over.
// One thread at a time.
class Console {
 public:
  // Finds out by itself whether `out` is a terminal, how wide it is and whether it shows UTF-8.
  explicit Console(std::FILE* out);
  // For tests: `width` in characters.
  Console(std::FILE* out, bool terminal, int width);
  ~Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  // Writes `text` and a line end; a status line moves below it.
  void Line(absl::string_view text);
  // Replaces the status line. Does nothing when the output is no terminal.
  void Status(absl::string_view text);
  void ClearStatus();

  bool terminal() const { return terminal_; }
  int width() const { return width_; }

 private:
  std::FILE* const out_;
  const bool terminal_;
  const int width_;
  std::string status_;
};

}  // namespace thaw
