#include "client/cli/thaw_view.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/cli/format.h"

namespace thaw {
namespace {

constexpr int kNamedParts = 4;
constexpr int kWidestPicture = 120;
constexpr int kNameColumns = 24;
constexpr absl::string_view kBlock = "block.";

// A name up to its first number, or without its last part.
std::string Stem(absl::string_view name) {
  const std::vector<std::string> parts = absl::StrSplit(name, '.');
  size_t kept = parts.size() > 1 ? parts.size() - 1 : 1;
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    int number;
    if (!absl::SimpleAtoi(parts[i], &number)) continue;
    kept = i + 1;
    break;
  }
  return absl::StrJoin(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(kept), ".");
}

// From 0 for the embeddings; blocks by their number, as far as a picture goes; -1 for the head.
int Place(const std::string& group) {
  int block;
  if (absl::StartsWith(group, kBlock) && absl::SimpleAtoi(group.substr(kBlock.size()), &block) &&
      block >= 0) {
    return std::min(block, kWidestPicture) + 1;
  }
  return group == "embeddings" ? 0 : -1;
}

// "block.2" or "block.2 to block.5", with its rate.
std::string RunOfGroups(const v1::GroupRate& lowest, const v1::GroupRate& highest) {
  std::string text = Printable(lowest.group());
  if (lowest.group() != highest.group()) absl::StrAppend(&text, " to ", Printable(highest.group()));
  return absl::StrCat(text, " ", FormatNumber(highest.learning_rate()));
}

// One of eight heights, each half as high a rate as the one above it.
const char* Height(double rate, double highest) {
  static const char* const kHeights[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const double halves = rate > 0 && highest > 0 ? std::log2(highest / rate) : 7;
  return kHeights[7 - std::lround(std::clamp(halves, 0.0, 7.0))];
}

}  // namespace

std::string ShortNames(const google::protobuf::RepeatedPtrField<std::string>& names, int most) {
  std::vector<std::pair<std::string, int>> stems;
  for (const std::string& name : names) {
    std::string stem = Stem(name);
    const auto known = std::find_if(stems.begin(), stems.end(),
                                    [&](const auto& one) { return one.first == stem; });
    if (known == stems.end()) {
      stems.emplace_back(std::move(stem), 1);
    } else {
      ++known->second;
    }
  }
  std::vector<std::string> parts;
  int left = 0;
  for (const auto& [stem, count] : stems) {
    if (static_cast<int>(parts.size()) < most) {
      parts.push_back(absl::StrCat(Printable(stem), ".* (", count, ")"));
    } else {
      left += count;
    }
  }
  if (left > 0) parts.push_back(absl::StrCat("and ", FormatCount(left), " more"));
  return absl::StrJoin(parts, ", ");
}

std::vector<std::string> PhaseLines(const v1::PhaseStart& phase) {
  const double share = phase.total_parameters() > 0
                           ? static_cast<double>(phase.trainable_parameters()) /
                                 static_cast<double>(phase.total_parameters())
                           : 0;
  std::string line = absl::StrCat("phase ", phase.phase(), " ", Printable(phase.name()), ": ",
                                  FormatCount(phase.trainable_parameters()), " parameters train (",
                                  FormatShare(share), ")");
  if (phase.steps() > 0) absl::StrAppend(&line, ", ", FormatCount(phase.steps()), " steps");
  if (phase.rates_size() > 0) {
    absl::StrAppend(&line, ", lr ", FormatNumber(phase.rates().rbegin()->learning_rate()));
  }
  std::vector<std::string> lines = {std::move(line)};
  if (phase.newly_trainable_names_size() > 0) {
    lines.push_back(
        absl::StrCat("  new: ", ShortNames(phase.newly_trainable_names(), kNamedParts)));
  }
  std::vector<std::string> runs;
  for (int top = phase.rates_size() - 1; top >= 0;) {
    int bottom = top;
    while (bottom > 0 &&
           phase.rates(bottom - 1).learning_rate() == phase.rates(top).learning_rate()) {
      --bottom;
    }
    runs.push_back(RunOfGroups(phase.rates(bottom), phase.rates(top)));
    top = bottom - 1;
  }
  if (phase.rates_size() > 1) lines.push_back(absl::StrCat("  rates: ", absl::StrJoin(runs, ", ")));
  return lines;
}

std::vector<std::string> ThawPicture(const std::vector<v1::PhaseStart>& phases) {
  int blocks = 0;
  double highest = 0;
  for (const v1::PhaseStart& phase : phases) {
    for (const v1::GroupRate& rate : phase.rates()) {
      blocks = std::max(blocks, Place(rate.group()));
      highest = std::max(highest, rate.learning_rate());
    }
  }
  std::vector<std::string> lines;
  if (blocks + 2 > kWidestPicture) return lines;
  for (const v1::PhaseStart& phase : phases) {
    std::vector<std::string> columns(static_cast<size_t>(blocks) + 2, "·");
    for (const v1::GroupRate& rate : phase.rates()) {
      const int place = Place(rate.group());
      columns[place < 0 ? columns.size() - 1 : static_cast<size_t>(place)] =
          Height(rate.learning_rate(), highest);
    }
    const std::string name =
        Clip(absl::StrCat(phase.phase(), " ", Printable(phase.name())), kNameColumns);
    lines.push_back(absl::StrCat(name, std::string(kNameColumns - Columns(name), ' '), "  ",
                                 absl::StrJoin(columns, "")));
  }
  return lines;
}

}  // namespace thaw
