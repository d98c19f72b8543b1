#include "worker/text/stop_strings.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace thaw {
namespace {

constexpr size_t kMaxStopBytes = 1024;

}  // namespace

absl::StatusOr<StopStrings> StopStrings::Create(std::vector<std::string> stops) {
  for (size_t i = 0; i < stops.size(); ++i) {
    if (stops[i].empty() || stops[i].size() > kMaxStopBytes) {
      return absl::InvalidArgumentError(absl::StrCat("stop[", i, "] has ", stops[i].size(),
                                                     " bytes: must have 1 to ", kMaxStopBytes));
    }
  }
  return StopStrings(std::move(stops));
}

std::string StopStrings::Push(std::string_view piece) {
  if (stopped()) return "";
  held_.append(piece);
  size_t begin = 0;
  size_t end = std::string::npos;
  for (size_t i = 0; i < stops_.size(); ++i) {
    const size_t at = held_.find(stops_[i]);
    if (at == std::string::npos) continue;
    const size_t stop_end = at + stops_[i].size();
    if (stop_end < end || (stop_end == end && at < begin)) {
      begin = at;
      end = stop_end;
      match_ = static_cast<int>(i);
    }
  }
  if (stopped()) {
    std::string text = held_.substr(0, begin);
    held_.clear();
    return text;
  }
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (held_.ends_with(std::string_view(stop).substr(0, n))) keep = n;
    }
  }
  std::string text = held_.substr(0, held_.size() - keep);
  held_.erase(0, text.size());
  return text;
}

std::string StopStrings::Finish() { return std::exchange(held_, ""); }

}  // namespace thaw
