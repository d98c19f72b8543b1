#include "client/cli/loss_plot.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/format.h"

namespace thaw {
namespace {

constexpr int kAxisColumns = 9;
// Dots of one Braille cell, by column and row from the top (Unicode 15, U+2800).
constexpr unsigned char kDots[2][4] = {{0x01, 0x02, 0x04, 0x40}, {0x08, 0x10, 0x20, 0x80}};

std::string BrailleCell(unsigned char dots) {
  return {static_cast<char>(0xE2), static_cast<char>(0xA0 | dots >> 6),
          static_cast<char>(0x80 | (dots & 0x3F))};
}

struct DotColumn {
  double sum = 0;
  int count = 0;
};

class Canvas {
 public:
  Canvas(int width, int height)
      : width_(width), height_(height), cells_(static_cast<size_t>(width * height), 0) {}

  void Set(int x, int y) {
    cells_[static_cast<size_t>(y / 4 * width_ + x / 2)] |= kDots[x % 2][y % 4];
  }
  // From the dot after the first point to the last point, without gaps.
  void Line(int x0, int y0, int x1, int y1) {
    const int steps = std::max(x1 - x0, std::abs(y1 - y0));
    for (int i = 1; i <= steps; ++i) Set(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps);
  }
  std::string Row(int row) const {
    std::string text;
    for (int x = 0; x < width_; ++x) {
      text += BrailleCell(cells_[static_cast<size_t>(row * width_ + x)]);
    }
    return text;
  }
  int dot_rows() const { return 4 * height_; }

 private:
  const int width_;
  const int height_;
  std::vector<unsigned char> cells_;
};

}  // namespace

std::vector<PlotPoint> Smoothed(const std::vector<PlotPoint>& points) {
  const size_t reach = points.size() / 40;
  std::vector<PlotPoint> smoothed;
  for (size_t i = 0; i < points.size(); ++i) {
    const size_t begin = i - std::min(i, reach);
    const size_t end = std::min(points.size(), i + reach + 1);
    double sum = 0;
    int count = 0;
    for (size_t j = begin; j < end; ++j) {
      if (!std::isfinite(points[j].value)) continue;
      sum += points[j].value;
      ++count;
    }
    smoothed.push_back(
        {points[i].step,
         sum / (count > 0 ? count : NAN)});  // NaN, and not drawn, where there is none
  }
  return smoothed;
}

std::string PlotCurve(const std::vector<PlotPoint>& points, const std::vector<PlotMark>& marks,
                      int width, int height) {
  const int cells = width - kAxisColumns;
  if (points.size() < 2 || cells < 10 || height < 2) return "";
  const int64_t first = points.front().step;
  const int64_t span = points.back().step - first;
  if (span <= 0) return "";
  const auto column_of = [&](int64_t step) {
    return static_cast<int>(static_cast<double>(step - first) / static_cast<double>(span) *
                            (2 * cells - 1));
  };
  std::vector<DotColumn> columns(static_cast<size_t>(2 * cells));
  for (const PlotPoint& point : points) {
    if (!std::isfinite(point.value)) continue;
    DotColumn& column = columns[static_cast<size_t>(column_of(point.step))];
    column.sum += point.value;
    ++column.count;
  }
  double low = INFINITY, high = -INFINITY;
  for (const DotColumn& column : columns) {
    if (column.count == 0) continue;
    low = std::min(low, column.sum / column.count);
    high = std::max(high, column.sum / column.count);
  }
  if (!(low <= high)) return "";
  const double range = high > low ? high - low : 1;

  Canvas canvas(cells, height);
  const auto row_of = [&](double value) {
    return static_cast<int>(std::lround((high - value) / range * (canvas.dot_rows() - 1)));
  };
  int previous_x = -1, previous_y = 0;
  for (int x = 0; x < 2 * cells; ++x) {
    const DotColumn& column = columns[static_cast<size_t>(x)];
    if (column.count == 0) continue;
    const int y = row_of(column.sum / column.count);
    if (previous_x >= 0) canvas.Line(previous_x, previous_y, x, y);
    canvas.Set(x, y);
    previous_x = x;
    previous_y = y;
  }

  std::string plot;
  for (int row = 0; row < height; ++row) {
    const bool labelled = row == 0 || row == height - 1 || row == height / 2;
    const double value = high - range * row / (height - 1);
    absl::StrAppend(&plot, labelled ? absl::StrFormat("%7.2g ┤", value) : "        │",
                    canvas.Row(row), "\n");
  }
  std::string axis;
  for (int x = 0; x < cells; ++x) axis += "─";
  absl::StrAppend(&plot, "        └", axis, "\n");

  std::string labels(static_cast<size_t>(cells), ' ');
  size_t free_from = 0;
  for (const PlotMark& mark : marks) {
    const auto at = static_cast<size_t>(column_of(std::clamp(mark.step, first, first + span)) / 2);
    const std::string label = absl::StrCat("|", mark.label);
    if (at < free_from || at + label.size() > labels.size()) continue;
    labels.replace(at, label.size(), label);
    free_from = at + label.size() + 1;
  }
  labels.erase(labels.find_last_not_of(' ') + 1);
  if (!labels.empty()) absl::StrAppend(&plot, "         ", labels, "\n");
  const std::string last = FormatCount(first + span);
  const std::string start = absl::StrCat("step ", FormatCount(first));
  const int gap = std::max(1, cells - Columns(start) - Columns(last));
  absl::StrAppend(&plot, "         ", start, std::string(static_cast<size_t>(gap), ' '), last);
  return plot;
}

}  // namespace thaw
