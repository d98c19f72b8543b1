#include "client/cli/loss_plot.h"

#include <cmath>

#include "absl/strings/str_split.h"
#include "client/cli/format.h"
#include "gmock/gmock.h"

namespace thaw {
namespace {

std::vector<PlotPoint> Falling(int steps) {
  std::vector<PlotPoint> points;
  for (int step = 1; step <= steps; ++step) points.push_back({step, 1.0 / step});
  return points;
}

TEST(LossPlotTest, HasTheHeightAndWidthThatAreAskedFor) {
  const std::string plot = PlotCurve(Falling(200), {{1, "1"}, {100, "2"}}, 60, 8);
  const std::vector<std::string> lines = absl::StrSplit(plot, '\n');
  ASSERT_EQ(lines.size(), 11u);  // 8 rows, axis, phases, steps
  for (const std::string& line : lines) EXPECT_LE(Columns(line), 60) << line;
  EXPECT_THAT(lines[0], testing::HasSubstr("0.75 ┤"));
  EXPECT_THAT(lines[9], testing::AllOf(testing::HasSubstr("|1"), testing::HasSubstr("|2")));
  EXPECT_THAT(lines[10], testing::AllOf(testing::HasSubstr("step 1"), testing::HasSubstr("200")));
}

TEST(LossPlotTest, AFallingCurveBeginsAboveAndEndsBelow) {
  const std::string plot = PlotCurve({{0, 2}, {100, 0}}, {}, 29, 2);
  const std::vector<std::string> lines = absl::StrSplit(plot, '\n');
  // Ten cells of the upper row are drawn, then ten of the lower one; the rest is blank Braille.
  EXPECT_EQ(lines[0].substr(lines[0].size() - 3), "⠀");
  EXPECT_NE(lines[1].substr(lines[1].size() - 3), "⠀");
}

TEST(LossPlotTest, LeavesOutWhatCannotBeDrawn) {
  EXPECT_EQ(PlotCurve({}, {}, 80, 8), "");
  EXPECT_EQ(PlotCurve({{1, 1}}, {}, 80, 8), "");
  EXPECT_EQ(PlotCurve({{1, NAN}, {2, INFINITY}}, {}, 80, 8), "");
  EXPECT_EQ(PlotCurve(Falling(10), {}, 12, 8), "");
  EXPECT_NE(PlotCurve({{1, 1}, {2, NAN}, {3, 1}}, {}, 80, 8), "");
}

TEST(LossPlotTest, SmoothingAveragesNeighboursAndKeepsSteps) {
  std::vector<PlotPoint> noisy;
  for (int step = 0; step < 200; ++step) noisy.push_back({step, step % 2 == 0 ? 1.0 : 3.0});
  const std::vector<PlotPoint> smooth = Smoothed(noisy);
  ASSERT_EQ(smooth.size(), noisy.size());
  for (size_t i = 10; i < 190; ++i) {
    EXPECT_EQ(smooth[i].step, noisy[i].step);
    EXPECT_NEAR(smooth[i].value, 2, 0.2);
  }
  EXPECT_EQ(Smoothed({{1, 5}})[0].value, 5);
}

TEST(LossPlotTest, MarksOutsideTheCurveDoNoHarm) {
  EXPECT_NE(PlotCurve(Falling(20), {{-5, "0"}, {1000, "9"}}, 60, 4), "");
}

}  // namespace
}  // namespace thaw
