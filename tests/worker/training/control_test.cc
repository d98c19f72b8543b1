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
