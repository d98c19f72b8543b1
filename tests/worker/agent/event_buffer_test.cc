#include "worker/agent/event_buffer.h"

#include <set>

#include "gtest/gtest.h"

namespace thaw {
namespace {

using Pending = google::protobuf::RepeatedPtrField<v1::WorkerEvent>;
constexpr int64_t kPlenty = 1 << 20;

v1::Event Points(int64_t first, int count) {
  v1::Event event;
  for (int i = 0; i < count; ++i) event.mutable_metric_points()->add_points()->set_step(first + i);
  return event;
}

v1::Event Warn(const std::string& message) {
  v1::Event event;
  event.mutable_warning()->set_message(message);
  return event;
}

Pending PendingOf(EventBuffer& buffer, int64_t bytes = kPlenty) {
  Pending pending;
  buffer.CopyPending(bytes, &pending);
  return pending;
}

TEST(EventBufferTest, NumbersWithoutGapsAndKeepsUntilAcknowledged) {
  EventBuffer buffer;
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(buffer.Add(Warn(std::to_string(i))));
  for (int repeat = 0; repeat < 2; ++repeat) {
    const Pending pending = PendingOf(buffer);
    ASSERT_EQ(pending.size(), 5);
    for (int i = 0; i < 5; ++i) EXPECT_EQ(pending[i].sequence(), i + 1);
  }
  buffer.Acknowledge(3);
  EXPECT_EQ(PendingOf(buffer)[0].sequence(), 4);
  buffer.Acknowledge(1);  // late
  EXPECT_EQ(PendingOf(buffer)[0].sequence(), 4);
  buffer.Acknowledge(99);  // never given out: not believed
  EXPECT_EQ(PendingOf(buffer).size(), 2);
  buffer.Acknowledge(5);
  EXPECT_TRUE(buffer.empty());
}

TEST(EventBufferTest, JoinsPointsOnlyWhileNobodyHasSeenThem) {
  EventBuffer buffer;
  ASSERT_TRUE(buffer.Add(Points(1, 1)));
  ASSERT_TRUE(buffer.Add(Points(2, 1)));
  Pending pending = PendingOf(buffer);
  ASSERT_EQ(pending.size(), 1);
  EXPECT_EQ(pending[0].event().metric_points().points_size(), 2);
  // The server may have committed the first event as it was: it must stay so.
  ASSERT_TRUE(buffer.Add(Points(3, 1)));
  pending = PendingOf(buffer);
  ASSERT_EQ(pending.size(), 2);
  EXPECT_EQ(pending[0].event().metric_points().points_size(), 2);
  EXPECT_EQ(pending[1].event().metric_points().points(0).step(), 3);
}

TEST(EventBufferTest, ThinsPointsButKeepsTheNewestAndEverythingElse) {
  EventBuffer buffer;
  ASSERT_TRUE(buffer.Add(Warn("first")));
  constexpr int kPoints = 100'000;
  for (int step = 1; step <= kPoints; ++step) ASSERT_TRUE(buffer.Add(Points(step, 1)));
  ASSERT_TRUE(buffer.Add(Warn("last")));
  const Pending pending = PendingOf(buffer);
  ASSERT_EQ(pending.size(), 3);
  const auto& points = pending[1].event().metric_points().points();
  EXPECT_LE(points.size(), 512);
  EXPECT_EQ(points.rbegin()->step(), kPoints);
  for (int i = 1; i < points.size(); ++i) EXPECT_LT(points[i - 1].step(), points[i].step());
  EXPECT_EQ(pending[2].event().warning().message(), "last");
}

TEST(EventBufferTest, ThinningKeepsSumsEvaluationsAndPhaseEnds) {
  EventBuffer buffer;
  double loss = 0;
  int64_t step = 0;
  std::set<int64_t> phase_ends;
  for (int phase = 1; phase <= 3; ++phase) {
    for (int i = 0; i < 5000; ++i) {
      v1::Event event = Points(++step, 1);
      v1::MetricPoint& point = *event.mutable_metric_points()->mutable_points(0);
      point.set_phase(phase);
      const auto add = [&point](const char* name, double value) {
        point.add_values()->set_name(name);
        point.mutable_values()->rbegin()->set_value(value);
      };
      add("loss", 0.5);
      add("loss_sum", static_cast<double>(step % 7));
      add("loss_units", 2);
      loss += static_cast<double>(step % 7);
      ASSERT_TRUE(buffer.Add(event));
      if (step % 1000 != 0) continue;
      v1::Event evaluation = Points(step, 1);
      v1::MetricPoint& evaluated = *evaluation.mutable_metric_points()->mutable_points(0);
      evaluated.set_phase(phase);
      evaluated.add_values()->set_name("eval_accuracy");
      ASSERT_TRUE(buffer.Add(evaluation));
    }
    phase_ends.insert(step);
  }
  double loss_kept = 0, units_kept = 0;
  int evaluations = 0;
  const Pending pending = PendingOf(buffer);
  ASSERT_EQ(pending.size(), 1);
  EXPECT_LE(pending[0].event().metric_points().points_size(), 512);
  for (const v1::MetricPoint& point : pending[0].event().metric_points().points()) {
    for (const v1::MetricValue& value : point.values()) {
      if (value.name() == "loss_sum") loss_kept += value.value();
      if (value.name() == "loss_units") units_kept += value.value();
      if (value.name() == "loss") phase_ends.erase(point.step());
      if (value.name() == "eval_accuracy") ++evaluations;
    }
  }
  EXPECT_EQ(loss_kept, loss);
  EXPECT_EQ(units_kept, 2 * static_cast<double>(step));
  EXPECT_EQ(evaluations, 15);
  EXPECT_TRUE(phase_ends.empty());
}

TEST(EventBufferTest, WhatCannotBeThinnedGoesIntoMoreEvents) {
  EventBuffer buffer;
  for (int step = 1; step <= 2000; ++step) {
    v1::Event event = Points(step, 1);
    event.mutable_metric_points()->mutable_points(0)->add_values()->set_name("eval_loss");
    ASSERT_TRUE(buffer.Add(event));
  }
  int points = 0;
  for (const v1::WorkerEvent& event : PendingOf(buffer)) {
    EXPECT_LE(event.event().metric_points().points_size(), 512);
    points += event.event().metric_points().points_size();
  }
  EXPECT_EQ(points, 2000);
}

TEST(EventBufferTest, HandsOutNoMoreThanAskedButAlwaysOne) {
  EventBuffer buffer;
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(buffer.Add(Warn(std::string(1000, 'x'))));
  EXPECT_EQ(PendingOf(buffer, 3500).size(), 3);
  EXPECT_EQ(PendingOf(buffer, 1).size(), 1);
}

TEST(EventBufferTest, RefusesAFlood) {
  EventBuffer buffer;
  int taken = 0;
  while (taken < 1'000'000 && buffer.Add(Warn("x"))) ++taken;
  EXPECT_EQ(taken, 20'000);
  EventBuffer large;
  for (taken = 0; taken < 1'000'000 && large.Add(Warn(std::string(300'000, 'x'))); ++taken) {
  }
  EXPECT_LE(taken * int64_t{300'000}, int64_t{64} << 20);
  PendingOf(large, int64_t{1} << 30);
  large.Acknowledge(taken);
  EXPECT_TRUE(large.Add(Warn("room again")));
}

}  // namespace
}  // namespace thaw
