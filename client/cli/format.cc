#include "client/cli/format.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace thaw {
namespace {

bool ContinuesCharacter(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

}  // namespace

std::string Printable(absl::string_view text) {
  std::string clean;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    // C1 controls are two bytes in UTF-8: C2 80 to C2 9F.
    const bool c1 = byte == 0xC2 && i + 1 < text.size() &&
                    static_cast<unsigned char>(text[i + 1]) >= 0x80 &&
                    static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (c1) ++i;
    clean.append(c1 || byte < 0x20 || byte == 0x7F ? " " : std::string(1, text[i]));
  }
  return clean;
}

int Columns(absl::string_view text) {
  return static_cast<int>(
      std::count_if(text.begin(), text.end(), [](char c) { return !ContinuesCharacter(c); }));
}

std::string Clip(absl::string_view text, int columns) {
  if (Columns(text) <= columns) return std::string(text);
  if (columns < 1) return "";
  size_t end = 0;
  for (int left = columns - 1; end < text.size(); ++end) {
    if (!ContinuesCharacter(text[end]) && left-- == 0) break;
  }
  return absl::StrCat(text.substr(0, end), "…");
}

std::string FormatBytes(int64_t bytes) {
  static constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes) / 1024;
  int unit = 0;
  for (; value >= 1024 && unit < 4; ++unit) value /= 1024;
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string FormatCount(int64_t count) {
  std::string digits = absl::StrCat(count);
  for (int i = static_cast<int>(digits.size()) - 3; i > (count < 0 ? 1 : 0); i -= 3) {
    digits.insert(static_cast<size_t>(i), ",");
  }
  return digits;
}

std::string FormatDuration(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "?";
  if (seconds < 10) return absl::StrFormat("%.1f s", seconds);
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 60) return absl::StrCat(whole, " s");
  if (whole < 3600) return absl::StrFormat("%d:%02d", whole / 60, whole % 60);
  return absl::StrFormat("%d:%02d:%02d", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string FormatShare(double share) { return absl::StrFormat("%.1f %%", 100 * share); }

std::string FormatNumber(double value) { return absl::StrFormat("%.4g", value); }

std::string FormatTime(const google::protobuf::Timestamp& time) {
  if (time.seconds() == 0) return "-";
  const auto seconds = static_cast<std::time_t>(time.seconds());
  std::tm local{};
  char text[32];
  localtime_r(&seconds, &local);
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &local);
  return text;
}

std::string FormatMetric(absl::string_view name, double value) {
  const bool share = name.find("accuracy") != name.npos || name.find("f1") != name.npos;
  return share ? FormatShare(value) : FormatNumber(value);
}

std::string Bar(double share, int columns) {
  const double clamped = share > 0 ? std::min(share, 1.0) : 0;  // NaN becomes 0
  const int done = static_cast<int>(clamped * columns);
  std::string bar;
  for (int i = 0; i < columns; ++i) bar += i < done ? "━" : "─";
  return bar;
}

std::string Table(const std::vector<std::vector<std::string>>& given) {
  if (given.empty()) return "";
  std::vector<std::vector<std::string>> rows = given;
  for (std::vector<std::string>& row : rows) {
    for (std::string& text : row) text = Printable(text);
  }
  std::vector<bool> right;
  for (const std::string& header : rows[0]) right.push_back(!header.empty() && header[0] == '>');
  const auto cell = [&](size_t row, size_t column) {
    absl::string_view text = column < rows[row].size() ? rows[row][column] : absl::string_view();
    return row == 0 && right[column] ? text.substr(1) : text;
  };
  std::vector<int> widths(right.size(), 0);
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t c = 0; c < widths.size(); ++c) widths[c] = std::max(widths[c], Columns(cell(r, c)));
  }
  std::string table;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string line;
    for (size_t c = 0; c < widths.size(); ++c) {
      const std::string space(static_cast<size_t>(widths[c] - Columns(cell(r, c))), ' ');
      if (c > 0) line += "  ";
      absl::StrAppend(&line, right[c] ? space : "", cell(r, c), right[c] ? "" : space);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    absl::StrAppend(&table, r > 0 ? "\n" : "", line);
  }
  return table;
}

}  // namespace thaw
