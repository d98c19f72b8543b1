#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace thaw {

struct PlotPoint {
  int64_t step = 0;
  double value = 0;
};

// Where a phase begins, for the axis.
struct PlotMark {
  int64_t step = 0;
  std::string label;
};

// Each point as the mean of its neighbours within a fortieth of all points to either side: a loss
// per step is noisy.
std::vector<PlotPoint> Smoothed(const std::vector<PlotPoint>& points);

// A curve of `width` × `height` characters in Braille dots with its axes, lines separated by '\n'.
// Points that share a column of dots are averaged; values that are not finite are left out. Empty
// for fewer than two points. `points` are ordered by step.
std::string PlotCurve(const std::vector<PlotPoint>& points, const std::vector<PlotMark>& marks,
                      int width, int height);

}  // namespace thaw
