#include "server/jobs/event_log.h"

#include "common/base/id.h"
#include "gtest/gtest.h"
#include "tests/testing/store_fixture.h"

namespace thaw {
namespace {

class EventLog : public ::testing::Test {
 protected:
  EventLog() {
    fixture_.AddArtifacts();
    job_ = fixture_.Submit();
    Begin();
  }
  void Begin() {
    attempt_ = RandomId();
    sequence_ = 0;
    ASSERT_TRUE(fixture_.store()
                    .Write([&](Transaction& t) {
                      return BeginAttempt(t, job_, attempt_, "w", v1::Resources::CPU);
                    })
                    .ok());
  }
  void Checkpoint(int64_t step) {
    NewCheckpoint checkpoint;
    checkpoint.artifact.set_id(NewId("checkpoint"));
    checkpoint.step = step;
    ASSERT_TRUE(
        fixture_.store()
            .Write([&](Transaction& t) { return CommitCheckpoint(t, attempt_, checkpoint); })
            .ok());
  }
  void Lose() {
    ASSERT_TRUE(fixture_.store()
                    .Write([&](Transaction& t) { return LoseAttempt(t, attempt_, "gone"); })
                    .ok());
  }
  // Points at steps first … last with value(step), in one report.
  void Points(int64_t first, int64_t last, double (*value)(int64_t)) {
    v1::AttemptReport report;
    report.set_attempt_id(attempt_);
    report.set_state(v1::AttemptReport::RUNNING);
    v1::WorkerEvent& event = *report.add_events();
    event.set_sequence(++sequence_);
    for (int64_t step = first; step <= last; ++step) {
      v1::MetricPoint& point = *event.mutable_event()->mutable_metric_points()->add_points();
      point.set_step(step);
      for (const char* name : {"loss", "loss_sum"}) {
        v1::MetricValue& out = *point.add_values();
        out.set_name(name);
        out.set_value(value(step));
      }
    }
    ASSERT_TRUE(fixture_.store()
                    .Write([&](Transaction& t) {
                      return ApplyReport(t, "w", std::string(32, '0'), 1, report);
                    })
                    .ok());
  }
  // The same with the loss and, in every `every`th point, a value of each group.
  void GroupPoints(int64_t first, int64_t last, const std::vector<std::string>& groups,
                   int64_t every = 10) {
    v1::AttemptReport report;
    report.set_attempt_id(attempt_);
    report.set_state(v1::AttemptReport::RUNNING);
    v1::WorkerEvent& event = *report.add_events();
    event.set_sequence(++sequence_);
    for (int64_t step = first; step <= last; ++step) {
      v1::MetricPoint& point = *event.mutable_event()->mutable_metric_points()->add_points();
      point.set_step(step);
      const auto add = [&](const std::string& name, const std::string& group) {
        v1::MetricValue& out = *point.add_values();
        out.set_name(name);
        out.set_group(group);
        out.set_value(static_cast<double>(step));
      };
      add("loss", "");
      for (const std::string& group : groups) {
        if ((step - 1) % every == 0) add("grad_norm", group);
      }
    }
    ASSERT_TRUE(fixture_.store()
                    .Write([&](Transaction& t) {
                      return ApplyReport(t, "w", std::string(32, '0'), 1, report);
                    })
                    .ok());
  }
  v1::QueryMetricsResponse QueryAll(int max_points) {
    v1::QueryMetricsRequest request;
    request.set_id(job_);
    request.set_max_points(max_points);
    auto response =
        fixture_.store().Read([&](Reader& r) { return QueryMetrics(r, "ann", request); });
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok() ? *response : v1::QueryMetricsResponse();
  }
  v1::MetricSeries Query(int max_points, int64_t from_step = 0, const std::string& name = "loss") {
    v1::QueryMetricsRequest request;
    request.set_id(job_);
    request.add_names(name);
    request.set_max_points(max_points);
    request.set_from_step(from_step);
    auto response =
        fixture_.store().Read([&](Reader& r) { return QueryMetrics(r, "ann", request); });
    EXPECT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->series_size(), 1);
    return response->series(0);
  }

  StoreFixture fixture_;
  std::string job_;
  std::string attempt_;
  int64_t sequence_ = 0;
};

std::string Show(const v1::MetricSeries& series) {
  std::string text;
  for (int i = 0; i < series.steps_size(); ++i) {
    absl::StrAppend(&text, text.empty() ? "" : " ", series.steps(i), ":", series.values(i));
  }
  return text;
}

TEST_F(EventLog, PagesRunThroughBothTables) {
  Points(1, 2, [](int64_t) { return 1.0; });
  Checkpoint(2);
  Points(3, 4, [](int64_t) { return 1.0; });
  int64_t after = 0;
  for (int64_t expected = 1; expected <= 6; ++expected) {
    auto page =
        fixture_.store().Read([&](Reader& r) { return EventsAfter(r, "ann", job_, after, 1); });
    ASSERT_EQ(page->size(), 1u);
    EXPECT_EQ((*page)[0].sequence(), expected);
    after = expected;
  }
  EXPECT_TRUE(fixture_.store()
                  .Read([&](Reader& r) { return EventsAfter(r, "ann", job_, 6, 100); })
                  ->empty());
}

TEST_F(EventLog, APageHoldsAtMostAMebibyteButAlwaysOneEvent) {
  v1::AttemptReport report;
  report.set_attempt_id(attempt_);
  report.set_state(v1::AttemptReport::RUNNING);
  for (int i = 1; i <= 4; ++i) {
    v1::WorkerEvent& event = *report.add_events();
    event.set_sequence(i);
    event.mutable_event()->mutable_log_line()->set_text(
        std::string(i == 2 ? 2 << 20 : 400'000, 'x'));
  }
  ASSERT_TRUE(fixture_.store()
                  .Write([&](Transaction& t) {
                    return ApplyReport(t, "w", std::string(32, '0'), 1, report);
                  })
                  .ok());
  std::string sizes;
  int64_t after = 0;
  while (true) {
    auto page =
        fixture_.store().Read([&](Reader& r) { return EventsAfter(r, "ann", job_, after, 100); });
    if (page->empty()) break;
    absl::StrAppend(&sizes, page->size(), " ");
    after = page->back().sequence();
  }
  EXPECT_EQ(sizes, "4 1 2 ");
}

TEST_F(EventLog, AShortSeriesIsWhole) {
  Points(1, 5, [](int64_t step) { return static_cast<double>(step * step); });
  EXPECT_EQ(Show(Query(0)), "1:1 2:4 3:9 4:16 5:25");
  EXPECT_EQ(Show(Query(0, 4)), "4:16 5:25");
}

TEST_F(EventLog, ALongSeriesIsThinnedToMeans) {
  Points(1, 8, [](int64_t step) { return static_cast<double>(step); });
  EXPECT_EQ(Show(Query(4)), "2:1.5 4:3.5 6:5.5 8:7.5");
  EXPECT_EQ(Show(Query(1)), "8:4.5");
  Points(9, 9, [](int64_t step) { return static_cast<double>(step); });
  const v1::MetricSeries series = Query(4);
  EXPECT_EQ(Show(series), "4:2.5 8:6.5 9:9");
}

TEST_F(EventLog, OnlyTheSurvivingLineIsShown) {
  Points(1, 10, [](int64_t) { return 1.0; });
  Checkpoint(4);
  Points(11, 12, [](int64_t) { return 1.0; });
  Lose();
  Begin();  // goes on from step 4
  Points(5, 6, [](int64_t) { return 2.0; });
  EXPECT_EQ(Show(Query(0)), "1:1 2:1 3:1 4:1 5:2 6:2");
  Lose();
  Begin();
  Points(5, 5, [](int64_t) { return 3.0; });
  EXPECT_EQ(Show(Query(0)), "1:1 2:1 3:1 4:1 5:3");
}

TEST_F(EventLog, OldPointsAreThinnedAndTheirSumsKept) {
  Points(1, 25, [](int64_t) { return 1.0; });
  auto thin = [&] {
    return *fixture_.store().Write([](Transaction& t) { return ThinMetrics(t, 10); });
  };
  EXPECT_EQ(thin(), 0) << "they are young and few";
  fixture_.clock().AdvanceSeconds(31 * 86'400.0);
  Points(26, 26, [](int64_t) { return 1.0; });
  EXPECT_EQ(thin(), 1);
  EXPECT_EQ(thin(), 0);
  EXPECT_EQ(Show(Query(0)), "10:1 20:1 25:1 26:1");
  EXPECT_EQ(Show(Query(0, 0, "loss_sum")), "10:10 20:10 25:5 26:1");
  fixture_.CheckHistory(job_);
}

TEST_F(EventLog, ValuesOfGroupsAreSeriesOfTheirOwnAndOutliveThinning) {
  GroupPoints(1, 50, {"block.0", "head"});
  EXPECT_EQ(QueryAll(0).series_size(), 3);
  EXPECT_EQ(QueryAll(0).series(0).group(), "block.0");
  EXPECT_EQ(Show(QueryAll(0).series(0)), "1:1 11:11 21:21 31:31 41:41");
  fixture_.clock().AdvanceSeconds(31 * 86'400.0);
  ASSERT_EQ(*fixture_.store().Write([](Transaction& t) { return ThinMetrics(t, 10); }), 1);
  EXPECT_EQ(Show(QueryAll(0).series(0)), "11:11 21:21 31:31 41:41");
  EXPECT_EQ(Show(QueryAll(0).series(2)), "11:11 21:21 31:31 41:41 50:50") << "the loss";
}

TEST_F(EventLog, TheAnswerFitsIntoAMessageHoweverManyGroupsThereAre) {
  std::vector<std::string> groups;
  for (int group = 0; group < 64; ++group) groups.push_back(absl::StrCat("block.", group));
  for (int64_t step = 1; step < 4000; step += 500) GroupPoints(step, step + 499, groups, 1);
  const v1::QueryMetricsResponse all = QueryAll(10'000);
  EXPECT_EQ(all.series_size(), 65);
  EXPECT_LT(all.ByteSizeLong(), size_t{3} << 20);
  for (const v1::MetricSeries& series : all.series()) {
    EXPECT_GT(series.steps_size(), 1000);
    EXPECT_EQ(*series.steps().rbegin(), 4000);
  }
}

TEST_F(EventLog, TooManyBytesAreThinnedOldestFirst) {
  fixture_.Close();
  StoreOptions options = fixture_.Options();
  options.metrics_full_bytes = 1;
  auto store = Store::Open(options);
  ASSERT_TRUE(store.ok());
  v1::AttemptReport report;
  report.set_attempt_id(attempt_);
  report.set_state(v1::AttemptReport::RUNNING);
  report.add_events()->set_sequence(1);
  report.mutable_events(0)->mutable_event()->mutable_metric_points()->add_points()->set_step(1);
  ASSERT_TRUE((*store)
                  ->Write([&](Transaction& t) {
                    return ApplyReport(t, "w", std::string(32, '0'), 1, report);
                  })
                  .ok());
  fixture_.clock().AdvanceSeconds(1);
  EXPECT_EQ(*(*store)->Write([](Transaction& t) { return ThinMetrics(t, 10); }), 1);
}

}  // namespace
}  // namespace thaw
