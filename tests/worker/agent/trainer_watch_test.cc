#include "worker/agent/trainer_watch.h"

#include <cmath>
#include <csignal>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSecond = 1'000'000;

int SignalAt(TrainerWatch& watch, double seconds) {
  const auto measure = watch.Due(static_cast<int64_t>(seconds * 1e6));
  return measure ? measure->signal : 0;
}

TEST(TrainerWatchTest, AHangIsAbortedThenKilled) {
  TrainerWatch watch({.hang_seconds = 120, .hold_seconds = 600, .stop_seconds = 10}, 0);
  EXPECT_EQ(SignalAt(watch, 119), 0);
  watch.SignOfLife(100 * kSecond);
  EXPECT_EQ(SignalAt(watch, 219), 0);
  const auto measure = watch.Due(221 * kSecond);
  ASSERT_TRUE(measure);
  EXPECT_EQ(measure->signal, SIGABRT);
  EXPECT_THAT(measure->why, HasSubstr("no sign of life for 120 s"));
  EXPECT_FALSE(measure->hand_back);
  EXPECT_EQ(SignalAt(watch, 230), 0) << "each measure once";
  EXPECT_EQ(SignalAt(watch, 232), SIGKILL);
  EXPECT_EQ(SignalAt(watch, 500), 0);
}

TEST(TrainerWatchTest, SlowStepsAreGivenTime) {
  for (const double median : {30.0, 1e9}) {
    TrainerWatch watch({}, 0);
    watch.SetMedianStep(median);
    EXPECT_EQ(SignalAt(watch, 599), 0);
    EXPECT_EQ(SignalAt(watch, 601), median > 1000 ? 0 : SIGABRT);
    EXPECT_EQ(SignalAt(watch, 72'001) != 0, true)
        << "but no trainer can ask for more than 20 hours";
  }
  for (const double nonsense : {-5.0, std::nan(""), -1.0 / 0.0}) {
    TrainerWatch watch({}, 0);
    watch.SetMedianStep(nonsense);
    EXPECT_EQ(SignalAt(watch, 121), SIGABRT);
  }
}

TEST(TrainerWatchTest, AHoldEndsInTimeAndIsNotTheTrainersFault) {
  TrainerWatch watch({}, 0);
  watch.SetHeld(true, 100 * kSecond);
  for (int second = 100; second <= 700; second += 50) {
    watch.SignOfLife(second * kSecond);
    EXPECT_EQ(SignalAt(watch, second), 0);
  }
  const auto measure = watch.Due(701 * kSecond);
  ASSERT_TRUE(measure);
  EXPECT_EQ(measure->signal, SIGKILL);
  EXPECT_TRUE(measure->hand_back);
  EXPECT_EQ(measure->why, "");
}

TEST(TrainerWatchTest, AServerThatComesBackInTimeEndsTheHold) {
  TrainerWatch watch({}, 0);
  watch.SetHeld(true, 0);
  watch.SetHeld(false, 599 * kSecond);
  EXPECT_EQ(SignalAt(watch, 700), 0);
  watch.SetHeld(true, 701 * kSecond);
  watch.SignOfLife(1290 * kSecond);
  EXPECT_EQ(SignalAt(watch, 1300), 0) << "a new hold has its own time";
}

TEST(TrainerWatchTest, ADeafOneIsKilledWithoutBlame) {
  TrainerWatch watch({}, 0);
  watch.StopAsked(5 * kSecond);
  watch.StopAsked(14 * kSecond);  // asked again: no more time
  EXPECT_EQ(SignalAt(watch, 14), 0);
  const auto measure = watch.Due(16 * kSecond);
  ASSERT_TRUE(measure);
  EXPECT_EQ(measure->signal, SIGKILL);
  EXPECT_EQ(measure->why, "");
}

TEST(TrainerWatchTest, OneThatHasEndedButStaysIsKilledWithoutBlame) {
  TrainerWatch watch({}, 0);
  watch.Ended(50 * kSecond);
  EXPECT_EQ(SignalAt(watch, 59), 0);
  const auto measure = watch.Due(61 * kSecond);
  ASSERT_TRUE(measure);
  EXPECT_EQ(measure->signal, SIGKILL);
  EXPECT_EQ(measure->why, "");
  EXPECT_FALSE(measure->hand_back);
}

}  // namespace
}  // namespace thaw
