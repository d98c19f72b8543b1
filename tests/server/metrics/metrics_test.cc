// What /metrics shows, and for how long.
#include <arpa/inet.h>
#include <sqlite3.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/jobs/database.h"
#include "server/metrics/job_metrics.h"
#include "server/metrics/metrics_server.h"
#include "server/metrics/service_metrics.h"
#include "server/metrics/state_metrics.h"
#include "tests/server/artifacts/artifact_fixture.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Scrape(int port) {
  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
  EXPECT_EQ(write(socket.get(), request.data(), request.size()),
            static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t count; (count = read(socket.get(), buffer, sizeof buffer)) > 0;) {
    answer.append(buffer, static_cast<size_t>(count));
  }
  return answer;
}

v1::Progress SomeProgress() {
  v1::Progress progress;
  progress.set_step(30);
  progress.set_total_steps(120);
  progress.set_phase(2);
  progress.set_loss(0.5);
  progress.set_learning_rate(0.001);
  progress.set_metric(0.8);
  progress.set_best_metric(0.9);
  progress.set_metric_name("accuracy");
  progress.set_memory_bytes(1 << 20);
  return progress;
}

// "name{label=value,…}" -> value.
std::map<std::string, double> Series(const std::vector<prometheus::MetricFamily>& families) {
  std::map<std::string, double> series;
  for (const prometheus::MetricFamily& family : families) {
    for (const prometheus::ClientMetric& metric : family.metric) {
      std::string key = family.name;
      for (const auto& label : metric.label) {
        absl::StrAppend(&key, " ", label.name, "=", label.value);
      }
      EXPECT_TRUE(series.emplace(key, metric.gauge.value).second) << key;
    }
  }
  return series;
}

TEST(JobFamilies, AreTwelveAJob) {
  v1::Job job;
  job.set_id("job-1");
  *job.mutable_progress() = SomeProgress();
  const auto series = Series(JobFamilies({job}));
  EXPECT_EQ(series.size(), 12u);
  EXPECT_EQ(series.at("thaw_job_loss job_id=job-1 phase=2"), 0.5);
  EXPECT_EQ(series.at("thaw_job_learning_rate job_id=job-1 phase=2"), 0.001);
  EXPECT_EQ(series.at("thaw_job_metric job_id=job-1 name=accuracy"), 0.8);
  EXPECT_EQ(series.at("thaw_job_best_metric job_id=job-1 name=accuracy"), 0.9);
  EXPECT_EQ(series.at("thaw_job_progress_ratio job_id=job-1"), 0.25);
  EXPECT_EQ(series.at("thaw_job_memory_bytes job_id=job-1"), 1 << 20);
}

TEST(JobFamilies, SayNothingThatIsNotKnown) {
  v1::Job job;
  job.set_id("job-1");
  const auto series = Series(JobFamilies({job}));
  EXPECT_EQ(series.count("thaw_job_progress_ratio job_id=job-1"), 0u);
  for (const auto& [key, value] : series) {
    EXPECT_THAT(key, Not(HasSubstr("metric"))) << value;
    EXPECT_THAT(key, Not(HasSubstr("phase="))) << value;
  }
  job.mutable_progress()->set_rows_done(1);
  job.mutable_progress()->set_rows_total(4);
  EXPECT_EQ(Series(JobFamilies({job})).at("thaw_job_progress_ratio job_id=job-1"), 0.25);
}

class MetricsTest : public ::testing::Test, public ArtifactFixture {
 protected:
  void Report(const std::string& job, v1::AttemptReport::State state) {
    v1::AttemptReport report;
    report.set_job(job);
    report.set_attempt_id("attempt-1");
    report.set_state(state);
    *report.mutable_progress() = SomeProgress();
    if (state == v1::AttemptReport::ENDED) {
      report.mutable_end()->set_outcome(v1::AttemptEnd::FAILED);
      report.mutable_end()->mutable_failure()->set_blame(v1::Failure::USER);
    }
    const auto applied = store().Write([&](Transaction& t) {
      return ApplyReport(t, "worker-1", "incarnation", ++number_, report);
    });
    ASSERT_TRUE(applied.ok()) << applied.status();
  }
  std::string StartJob() {
    AddArtifacts();
    const std::string job = Submit();
    const auto begun = store().Write([&](Transaction& t) {
      return BeginAttempt(t, job, "attempt-1", "worker-1", v1::Resources::CPU);
    });
    EXPECT_TRUE(begun.ok()) << begun.status();
    Report(job, v1::AttemptReport::RUNNING);
    return job;
  }

  int64_t number_ = 0;
};

TEST_F(MetricsTest, AJobsGaugesGoTwoMinutesAfterItsEnd) {
  JobMetrics metrics(store(), clock());
  ASSERT_TRUE(metrics.Start().ok());
  EXPECT_TRUE(Series(metrics.Collect()).empty());
  const std::string job = StartJob();
  EXPECT_EQ(Series(metrics.Collect()).size(), 12u);
  // One that starts now has heard of nothing, and finds the job.
  JobMetrics later(store(), clock());
  ASSERT_TRUE(later.Start().ok());
  EXPECT_EQ(Series(later.Collect()).size(), 12u);
  Report(job, v1::AttemptReport::ENDED);
  clock().AdvanceSeconds(110);
  EXPECT_EQ(Series(metrics.Collect()).size(), 12u);
  clock().AdvanceSeconds(15);
  EXPECT_TRUE(Series(metrics.Collect()).empty());
}

// Calls `then` once, when the next read has its rows and has not come back.
class AfterARead {
 public:
  AfterARead(Store& store, std::function<void()> then) : then_(std::move(then)) {
    // The connection that came back last is the next to be taken.
    database_ = store
                    .Read([](Reader& reader) {
                      return absl::StatusOr<sqlite3*>(reader.connection().handle());
                    })
                    .value();
    sqlite3_trace_v2(database_, SQLITE_TRACE_STMT, &BeforeStatement, this);
  }
  ~AfterARead() { sqlite3_trace_v2(database_, 0, nullptr, nullptr); }

 private:
  static int BeforeStatement(unsigned, void* self, void*, void* sql) {
    auto& then = static_cast<AfterARead*>(self)->then_;
    if (then && std::string(static_cast<const char*>(sql)) == "COMMIT") {
      std::exchange(then, nullptr)();
    }
    return 0;
  }

  std::function<void()> then_;
  sqlite3* database_ = nullptr;
};

TEST_F(MetricsTest, AJobThatEndsAsTheyStartIsNotShownForever) {
  const std::string job = StartJob();
  bool ended = false;
  const AfterARead end(store(), [&] {
    Report(job, v1::AttemptReport::ENDED);
    ended = true;
  });
  JobMetrics metrics(store(), clock());
  ASSERT_TRUE(metrics.Start().ok());
  EXPECT_EQ(Series(metrics.Collect()).size(), 12u);
  ASSERT_TRUE(ended);
  clock().AdvanceSeconds(125);
  EXPECT_TRUE(Series(metrics.Collect()).empty());
}

TEST_F(MetricsTest, AWaitingJobHasNoGauges) {
  JobMetrics metrics(store(), clock());
  ASSERT_TRUE(metrics.Start().ok());
  StartJob();
  ASSERT_TRUE(
      store().Write([](Transaction& t) { return LoseAttempt(t, "attempt-1", "gone"); }).ok());
  EXPECT_TRUE(Series(metrics.Collect()).empty());
}

TEST_F(MetricsTest, ShowsTheStateOfTheServer) {
  Dispatcher dispatcher(store(), clock(), {.run_thread = false});
  ASSERT_TRUE(dispatcher.Start().ok());
  AddArtifacts();
  Submit();
  const auto model = Finish(Upload(v1::Artifact::MODEL, TinyModel()));
  ASSERT_TRUE(model.ok()) << model.status();
  DiskGuard guard(store(), dispatcher, {}, [](int64_t) {}, {.run_thread = false});
  const StateMetrics metrics(store(), dispatcher, artifacts(), guard, directory(), "1.2.3");
  const auto series = Series(metrics.Collect());
  EXPECT_EQ(series.at("thaw_build_info version=1.2.3"), 1);
  EXPECT_EQ(series.at("thaw_jobs state=queued"), 1);
  EXPECT_EQ(series.at("thaw_jobs state=succeeded"), 0);
  EXPECT_EQ(series.at("thaw_workers state=lost"), 0);
  EXPECT_GE(series.at("thaw_artifact_bytes kind=model"), model->size_bytes());
  EXPECT_GT(series.at("thaw_disk_free_bytes dir=artifacts"), 0);
  EXPECT_EQ(series.at("thaw_disk_short"), 0);
  EXPECT_GT(series.at("thaw_store_bytes"), 0);
}

TEST(ServiceMetrics, AreServedFromTheFirstScrape) {
  ServiceMetrics metrics({"CreateJob", "GetJob"});
  auto server = MetricsServer::Start("127.0.0.1:0", {metrics.collectable()});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_THAT(Scrape((*server)->port()),
              HasSubstr("thaw_rpcs_total{code=\"OK\",rpc=\"CreateJob\"} 0"));
  metrics.RecordRpc("GetJob", "NOT_FOUND", 0.003);
  metrics.RecordCommit(0.001);
  metrics.AddBytesRead(7);
  const std::string text = Scrape((*server)->port());
  EXPECT_THAT(text, HasSubstr("thaw_rpcs_total{code=\"NOT_FOUND\",rpc=\"GetJob\"} 1"));
  EXPECT_THAT(text, HasSubstr("thaw_rpc_seconds_bucket{rpc=\"GetJob\",le=\"0.005\"} 1"));
  EXPECT_THAT(text, HasSubstr("thaw_commit_seconds_count 1"));
  EXPECT_THAT(text, HasSubstr("thaw_transfer_bytes_total{direction=\"read\"} 7"));
}

TEST(MetricsServer, SaysThatAnAddressIsTaken) {
  auto first = MetricsServer::Start("127.0.0.1:0", {});
  ASSERT_TRUE(first.ok());
  const auto second = MetricsServer::Start(absl::StrCat("127.0.0.1:", (*first)->port()), {});
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("--metrics_listen"));
}

}  // namespace
}  // namespace thaw
