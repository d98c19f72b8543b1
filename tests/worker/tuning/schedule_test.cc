#include "worker/tuning/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace thaw {
namespace {

struct ScheduleCase {
  v1::Schedule::Shape shape;
  int64_t warmup;
  int64_t steps;
  int64_t step;
  double expected;
};

TEST(Schedule, FollowsTheClosedForms) {
  const std::vector<ScheduleCase> cases = {
      {v1::Schedule::CONSTANT, 0, 10, 0, 1.0},
      {v1::Schedule::CONSTANT, 0, 10, 9, 1.0},
      {v1::Schedule::CONSTANT, 4, 10, 0, 0.0},
      {v1::Schedule::CONSTANT, 4, 10, 1, 0.25},
      {v1::Schedule::CONSTANT, 4, 10, 4, 1.0},
      {v1::Schedule::LINEAR, 0, 10, 0, 1.0},
      {v1::Schedule::LINEAR, 0, 10, 9, 0.1},
      {v1::Schedule::LINEAR, 2, 10, 1, 0.5},
      {v1::Schedule::LINEAR, 2, 10, 2, 1.0},
      {v1::Schedule::LINEAR, 2, 10, 6, 0.5},
      {v1::Schedule::LINEAR, 10, 10, 9, 0.9},
      {v1::Schedule::COSINE, 0, 8, 0, 1.0},
      {v1::Schedule::COSINE, 0, 8, 4, 0.5},
      {v1::Schedule::COSINE, 0, 8, 2, (1 + std::sqrt(0.5)) / 2},
      // cut = 10; at step 5 halfway up, at 10 the peak, at 55 halfway down.
      {v1::Schedule::SLANTED_TRIANGULAR, 0, 100, 0, 1.0 / 32},
      {v1::Schedule::SLANTED_TRIANGULAR, 0, 100, 5, (1 + 0.5 * 31) / 32},
      {v1::Schedule::SLANTED_TRIANGULAR, 0, 100, 10, 1.0},
      {v1::Schedule::SLANTED_TRIANGULAR, 0, 100, 55, (1 + 0.5 * 31) / 32},
      {v1::Schedule::SLANTED_TRIANGULAR, 0, 100, 99, (1 + (1 - 89.0 / 90) * 31) / 32},
      // Too short to rise: from the peak straight down.
      {v1::Schedule::SLANTED_TRIANGULAR, 0, 1, 0, 1.0},
      {v1::Schedule::SLANTED_TRIANGULAR, 0, 9, 0, 1.0},
      {v1::Schedule::SLANTED_TRIANGULAR, 0, 9, 8, (1 + (1 - 8 / 8.1) * 31) / 32},
      // cut = 1 of 19 would fall below 0 from step 10 on.
      {v1::Schedule::SLANTED_TRIANGULAR, 0, 19, 18, 1.0 / 32}};
  for (const ScheduleCase& test : cases) {
    v1::Schedule schedule;
    schedule.set_shape(test.shape);
    schedule.set_warmup_steps(test.warmup);
    EXPECT_NEAR(RateShare(schedule, test.step, test.steps), test.expected, 1e-12)
        << v1::Schedule::Shape_Name(test.shape) << " warm-up " << test.warmup << " step "
        << test.step << " of " << test.steps;
  }
}

TEST(Schedule, SlantedTriangleHonoursItsOptions) {
  v1::Schedule schedule;
  schedule.set_shape(v1::Schedule::SLANTED_TRIANGULAR);
  schedule.set_cut_fraction(0.5);
  schedule.set_ratio(4);
  EXPECT_NEAR(RateShare(schedule, 0, 8), 0.25, 1e-12);
  EXPECT_NEAR(RateShare(schedule, 2, 8), 0.625, 1e-12);
  EXPECT_NEAR(RateShare(schedule, 4, 8), 1.0, 1e-12);
  EXPECT_NEAR(RateShare(schedule, 6, 8), 0.625, 1e-12);
}

// As transformers' warmup_ratio.
TEST(Schedule, WarmUpAsAShareIsRoundedUp) {
  v1::Schedule schedule;
  schedule.set_shape(v1::Schedule::LINEAR);
  schedule.set_warmup_fraction(0.29);
  EXPECT_NEAR(RateShare(schedule, 28, 100), 28 / 29.0, 1e-12) << "29, not 29.0001 made 30";
  EXPECT_NEAR(RateShare(schedule, 29, 100), 1, 1e-12);
  EXPECT_NEAR(RateShare(schedule, 1, 10), 1 / 3.0, 1e-12) << "3 of 10";
  EXPECT_NEAR(RateShare(schedule, 0, 3), 0, 1e-12) << "1 of 3";
}

TEST(Schedule, OneCycleRisesThenFallsInHalvesOfCosines) {
  v1::Schedule schedule;
  schedule.set_shape(v1::Schedule::ONE_CYCLE);
  // fastai: from 1/25 up over a quarter, then down to 1/100,000, which the last step nearly
  // reaches.
  EXPECT_NEAR(RateShare(schedule, 0, 100), 0.04, 1e-12);
  EXPECT_NEAR(RateShare(schedule, 10, 100), 0.04 + 0.96 * (1 - std::cos(0.4 * M_PI)) / 2, 1e-12);
  EXPECT_NEAR(RateShare(schedule, 25, 100), 1, 1e-12);
  EXPECT_NEAR(RateShare(schedule, 55, 100), 1e-5 + (1 - 1e-5) * (1 + std::cos(0.4 * M_PI)) / 2,
              1e-12);
  schedule.set_cut_fraction(0.5);
  schedule.set_ratio(10);
  schedule.set_final_ratio(100);
  EXPECT_NEAR(RateShare(schedule, 0, 8), 0.1, 1e-12);
  EXPECT_NEAR(RateShare(schedule, 2, 8), 0.55, 1e-12);
  EXPECT_NEAR(RateShare(schedule, 4, 8), 1, 1e-12);
  EXPECT_NEAR(RateShare(schedule, 6, 8), 0.505, 1e-12);
}

TEST(Schedule, NeverLeavesZeroToOne) {
  for (int shape = v1::Schedule::CONSTANT; shape <= v1::Schedule::ONE_CYCLE; ++shape) {
    for (int64_t steps = 1; steps <= 40; ++steps) {
      for (int64_t warmup = 0; warmup <= steps + 1; ++warmup) {
        v1::Schedule schedule;
        schedule.set_shape(static_cast<v1::Schedule::Shape>(shape));
        schedule.set_warmup_steps(warmup);
        for (int64_t step = 0; step < steps; ++step) {
          const double share = RateShare(schedule, step, steps);
          ASSERT_GE(share, 0) << shape << " " << steps << " " << warmup << " " << step;
          ASSERT_LE(share, 1) << shape << " " << steps << " " << warmup << " " << step;
        }
      }
    }
  }
}

}  // namespace
}  // namespace thaw
