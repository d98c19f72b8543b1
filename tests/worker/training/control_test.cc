#include "worker/training/control.h"

#include <gtest/gtest.h>

#include <thread>

namespace thaw {
namespace {

TEST(Control, TellsACheckpointOnceAndAnEndForEver) {
  Control control;
  EXPECT_FALSE(control.AtBoundary([] {}).checkpoint);
  control.RequestCheckpoint();
  EXPECT_FALSE(control.ShouldEnd());
  EXPECT_TRUE(control.AtBoundary([] {}).checkpoint);
  EXPECT_FALSE(control.AtBoundary([] {}).checkpoint);
  control.RequestPause();
  EXPECT_TRUE(control.ShouldEnd());
  EXPECT_TRUE(control.AtBoundary([] {}).pause);
  EXPECT_TRUE(control.AtBoundary([] {}).pause);
  control.RequestStop();
  EXPECT_TRUE(control.AtBoundary([] {}).stop);
}

TEST(Control, GivesSteeringsByNumberAndOnce) {
  Control control;
  for (const int number : {2, 1, 2}) {
    v1::SteeringRecord record;
    record.set_number(number);
    control.Steer(record);
  }
  std::map<int32_t, v1::SteeringRecord> steerings;
  control.TakeSteerings(&steerings);
  ASSERT_EQ(steerings.size(), 2u);
  EXPECT_EQ(steerings.begin()->first, 1);
  steerings.clear();
  control.TakeSteerings(&steerings);
  EXPECT_TRUE(steerings.empty());
}

TEST(Control, HoldsUntilResumedAndBeatsMeanwhile) {
  Control control;
  control.Hold();
  int beats = 0;
  const auto requests = control.AtBoundary([&] {
    ++beats;
    control.Resume();
  });
  EXPECT_EQ(beats, 1);
  EXPECT_FALSE(requests.stop);
}

TEST(Control, AHoldEndsForWhatCannotWait) {
  for (const auto request :
       {&Control::RequestCheckpoint, &Control::RequestPause, &Control::RequestStop}) {
    Control control;
    control.Hold();
    std::thread asker([&] { (control.*request)(); });
    const auto requests = control.AtBoundary([] {});
    EXPECT_TRUE(requests.checkpoint || requests.pause || requests.stop);
    asker.join();
  }
}

}  // namespace
}  // namespace thaw
