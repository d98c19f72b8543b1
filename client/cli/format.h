// Figures, times and tables as people read them. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "google/protobuf/timestamp.pb.h"

namespace thaw {

// `text` with control characters replaced, so that nothing from a server or a file can steer the
// terminal.
std::string Printable(absl::string_view text);

// Characters of UTF-8 text, each taken as one column wide.
int Columns(absl::string_view text);
// At most `columns` characters of UTF-8 text; what was cut off shows as "…".
std::string Clip(absl::string_view text, int columns);

std::string FormatBytes(int64_t bytes);      // "86.7 MiB"
std::string FormatCount(int64_t count);      // "22,713,216"
std::string FormatDuration(double seconds);  // "0.4 s", "42 s", "3:07", "2:03:07"
std::string FormatShare(double share);       // "81.5 %"
std::string FormatNumber(double value);      // four significant digits: "0.4123", "2e-05"
std::string FormatTime(const google::protobuf::Timestamp& time);  // local: "2026-01-31 14:05:09"

// A metric by its name: accuracies and F1 as shares, the rest as numbers.
std::string FormatMetric(absl::string_view name, double value);

// "━━━━━━╸─────" of `columns` characters.
std::string Bar(double share, int columns);

// Columns as wide as their longest cell, two spaces between; the header's row first. A column whose
// header begins with '>' is aligned to the right (without the '>'). Cells are made Printable.
std::string Table(const std::vector<std::vector<std::string>>& given);

}  // namespace thaw
