#include "worker/agent/event_filter.h"

#include <cmath>
#include <limits>
#include <map>

#include "gtest/gtest.h"
#include "tests/testing/fake_clock.h"

namespace thaw {
namespace {

v1::Event Loss(int64_t step, double value, const std::string& name = "loss") {
  v1::Event event;
  v1::MetricPoint& point = *event.mutable_metric_points()->add_points();
  point.set_step(step);
  point.add_values()->set_name(name);
  point.mutable_values(0)->set_value(value);
  return event;
}

TEST(EventFilterTest, TakesWhatAnHonestTrainerSends) {
  FakeClock clock;
  EventFilter filter(clock);
  v1::Event event = Loss(1, 0.5);
  event.set_sequence(77);
  event.set_attempt(9);
  EXPECT_TRUE(filter.Check(&event).ok());
  EXPECT_EQ(event.sequence(), 0);
  EXPECT_EQ(event.attempt(), 0);
  v1::Event warning;
  warning.mutable_warning()->set_message("a\x1b[31mred\nline");
  EXPECT_TRUE(filter.Check(&warning).ok());
  EXPECT_EQ(warning.warning().message(), "a [31mred line");
  v1::Event steering;
  steering.mutable_steering_applied()->set_number(3);
  steering.mutable_steering_applied()->set_step(7);
  EXPECT_TRUE(filter.Check(&steering).ok());
}

TEST(EventFilterTest, RefusesLies) {
  const double nan = std::nan("");
  const double infinity = std::numeric_limits<double>::infinity();
  v1::Event terminal;
  terminal.mutable_state_change()->set_to(v1::Job::SUCCEEDED);
  v1::Event committed;
  committed.mutable_checkpoint_committed()->set_step(3);
  v1::Event no_points;
  no_points.mutable_metric_points();
  v1::Event evaluation;
  (*evaluation.mutable_evaluation_end()->mutable_values())["accuracy"] = nan;
  v1::Event huge;
  for (int i = 0; i < 20'000; ++i)
    *huge.mutable_metric_points()->add_points() = Loss(i + 1, 1).metric_points().points(0);
  v1::Event steering;
  steering.mutable_steering_applied()->set_step(-1);
  v1::Event steering_rate;
  steering_rate.mutable_steering_applied()->mutable_action()->set_scale_rate(nan);
  const v1::Event lies[] = {steering,          steering_rate, Loss(1, nan),
                            Loss(1, infinity), Loss(-5, 1),   Loss(1, 1, "Loss\n"),
                            Loss(1, 1, ""),    terminal,      committed,
                            no_points,         evaluation,    huge,
                            v1::Event()};
  for (const v1::Event& lie : lies) {
    FakeClock clock;
    EventFilter filter(clock);
    v1::Event event = lie;
    EXPECT_FALSE(filter.Check(&event).ok()) << lie.ShortDebugString().substr(0, 200);
  }
}

TEST(EventFilterTest, RefusesStepsThatGoBack) {
  FakeClock clock;
  EventFilter filter(clock);
  v1::Event first = Loss(5, 1);
  v1::Event evaluation = Loss(5, 1, "eval_loss");
  v1::Event back = Loss(4, 1);
  v1::Event next = Loss(6, 1);
  EXPECT_TRUE(filter.Check(&first).ok());
  EXPECT_TRUE(filter.Check(&evaluation).ok()) << "loss and evaluation of one step come apart";
  EXPECT_FALSE(filter.Check(&back).ok());
  EXPECT_TRUE(filter.Check(&next).ok());

  v1::Progress progress;
  for (const auto& [step, taken] : std::map<int64_t, bool>{{7, true}, {8, true}}) {
    progress.set_step(step);
    EXPECT_EQ(filter.Check(&progress).ok(), taken);
  }
  progress.set_step(7);
  EXPECT_FALSE(filter.Check(&progress).ok());
  progress.set_step(std::numeric_limits<int64_t>::max());
  EXPECT_FALSE(filter.Check(&progress).ok());
  progress.set_step(-1);
  EXPECT_FALSE(filter.Check(&progress).ok());
  EXPECT_EQ(filter.step(), 8);
}

TEST(EventFilterTest, CorrectsTimesThatNoCalendarKnows) {
  FakeClock clock;
  EventFilter filter(clock);
  const int64_t now = clock.WallMicros() / 1'000'000;
  struct Case {
    int64_t seconds;
    int32_t nanos;
    bool kept;
  };
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  constexpr int64_t kLeast = std::numeric_limits<int64_t>::min();
  const Case cases[] = {{now, 5, true},       {now - 3600, 0, true}, {0, 0, false},
                        {now, -1, false},     {kMost, 0, false},     {kLeast, 0, false},
                        {now, 1 << 30, false}};
  for (const Case& one : cases) {
    v1::Event event = Loss(1, 1);
    event.mutable_time()->set_seconds(one.seconds);
    event.mutable_time()->set_nanos(one.nanos);
    ASSERT_TRUE(filter.Check(&event).ok());
    EXPECT_EQ(event.time().seconds(), one.kept ? one.seconds : now) << one.seconds;
    EXPECT_EQ(event.time().nanos(), one.kept ? one.nanos : 0) << one.nanos;
  }
}

TEST(EventFilterTest, PassesGeneratedTextOnWithinBounds) {
  FakeClock clock;
  EventFilter filter(clock);
  const auto piece = [](const std::string& text) {
    v1::Event event;
    event.mutable_generated_text()->set_text(text);
    return event;
  };
  v1::Event event = piece("a\nb\x1b");
  event.mutable_generated_text()->set_finish_reason("length");
  EXPECT_TRUE(filter.Check(&event).ok());
  EXPECT_EQ(event.generated_text().text(), "a\nb\x1b");
  event.mutable_generated_text()->set_finish_reason("tired");
  EXPECT_FALSE(filter.Check(&event).ok());
  event = piece("a");
  event.mutable_generated_text()->set_row(-1);
  EXPECT_FALSE(filter.Check(&event).ok());
  event = piece(std::string(4097, 'x'));
  EXPECT_FALSE(filter.Check(&event).ok());
  int64_t passed = 0;
  for (int i = 0; i < 1000; ++i) {
    event = piece(std::string(4096, 'x'));
    EXPECT_TRUE(filter.Check(&event).ok());
    if (event.has_generated_text()) passed += 4096;
  }
  EXPECT_GT(passed, 1'000'000);
  EXPECT_LE(passed, 1 << 20);
}

TEST(EventFilterTest, CleansAndBoundsTheNamesOfAPhase) {
  FakeClock clock;
  EventFilter filter(clock);
  v1::Event event;
  v1::PhaseStart* phase = event.mutable_phase_start();
  for (int i = 0; i < 3000; ++i) {
    phase->add_trainable_names("a\x1b[31m");
    phase->add_newly_trainable_names("b\x1b[31m");
  }
  EXPECT_TRUE(filter.Check(&event).ok());
  EXPECT_EQ(phase->trainable_names_size(), 2000);
  EXPECT_EQ(phase->newly_trainable_names_size(), 2000);
  EXPECT_EQ(phase->trainable_names(1999), "a [31m");
  EXPECT_EQ(phase->newly_trainable_names(1999), "b [31m");
}

TEST(EventFilterTest, CleansProgress) {
  FakeClock clock;
  EventFilter filter(clock);
  v1::Progress progress;
  progress.set_loss(std::nan(""));
  progress.set_metric(-std::numeric_limits<double>::infinity());
  progress.set_phase_name("a\nb");
  EXPECT_TRUE(filter.Check(&progress).ok());
  EXPECT_EQ(progress.loss(), 0);
  EXPECT_EQ(progress.metric(), 0);
  EXPECT_FALSE(progress.has_best_metric());
  EXPECT_EQ(progress.phase_name(), "a b");
}

}  // namespace
}  // namespace thaw
