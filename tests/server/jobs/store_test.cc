// Opening, refusing, group commit, a full disk.
#include "server/jobs/store.h"

#include <sqlite3.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gtest/gtest.h"
#include "server/jobs/database.h"
#include "server/jobs/schema.h"
#include "tests/testing/store_fixture.h"

namespace thaw {
namespace {

TEST(StoreOpen, ASecondServerIsRefused) {
  StoreFixture fixture;
  const auto second = Store::Open(fixture.Options());
  ASSERT_TRUE(absl::IsFailedPrecondition(second.status()));
  EXPECT_NE(second.status().message().find("another server (process "), std::string::npos)
      << second.status();
}

TEST(StoreOpen, ItOpensAgainAfterItWasClosed) {
  StoreFixture fixture;
  fixture.AddArtifacts();
  const std::string job = fixture.Submit();
  fixture.Reopen();
  EXPECT_EQ(fixture.Get(job).state(), v1::Job::QUEUED);
  EXPECT_EQ(fixture.store().Stats().jobs.at(v1::Job::QUEUED), 1);
}

void Execute(const std::string& directory, const std::string& sql) {
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open((directory + "/jobs.db").c_str(), &database), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(database, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK)
      << sqlite3_errmsg(database);
  sqlite3_close(database);
}

TEST(StoreOpen, ForeignAndNewerFilesAreRefused) {
  struct Case {
    std::string sql;
    std::string expected;
  };
  const Case cases[] = {
      {absl::StrCat("PRAGMA user_version=", kSchemaVersion + 1), "was written by a newer Thaw"},
      {"PRAGMA application_id=7", "belongs to another program"},
  };
  for (const Case& test : cases) {
    StoreFixture fixture;
    fixture.Close();
    Execute(fixture.directory(), test.sql);
    const auto refused = Store::Open(fixture.Options());
    ASSERT_TRUE(absl::IsFailedPrecondition(refused.status())) << test.expected;
    EXPECT_NE(refused.status().message().find(test.expected), std::string::npos)
        << refused.status();
  }
}

TEST(StoreOpen, AnOlderSchemaIsBroughtUpToDate) {
  StoreFixture fixture;
  fixture.AddArtifacts();
  const std::string job = fixture.Submit();
  fixture.Close();
  Execute(fixture.directory(),
          "ALTER TABLE jobs DROP COLUMN held; DROP INDEX artifacts_by_base; "
          "ALTER TABLE artifacts DROP COLUMN base; DROP TABLE steerings; PRAGMA user_version=1");
  for (int start = 0; start < 2; ++start) {
    fixture.Reopen();
    EXPECT_EQ(fixture.Get(job).state(), v1::Job::QUEUED);
    EXPECT_EQ(fixture.Get(job).steerings_size(), 0);
    fixture.Close();
  }
}

TEST(StoreOpen, ADirectoryThatCannotBeIsRefused) {
  StoreFixture fixture;
  StoreOptions options = fixture.Options();
  options.data_dir = "/proc/thaw";
  const auto refused = Store::Open(options);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find("data_dir"), std::string::npos) << refused.status();
}

TEST(StoreOpen, DurabilityIsSetAndReadBack) {
  TempDir directory;
  Connection connection;
  ASSERT_TRUE(connection.OpenForWriting(directory.path() + "/x.db").ok());
  EXPECT_EQ(connection.Pragma("journal_mode"), "wal");
  EXPECT_EQ(connection.Pragma("synchronous"), "2");
}

TEST(StoreRead, AReaderCannotWrite) {
  StoreFixture fixture;
  const absl::Status status = fixture.store().Read(
      [](Reader& reader) { return reader.connection().Prepare("DELETE FROM jobs").Run(); });
  EXPECT_FALSE(status.ok());
}

// Holds the writer so that what is enqueued meanwhile makes one group.
class Gate {
 public:
  explicit Gate(Store& store) {
    store.Enqueue(
        [this](Transaction&) {
          std::unique_lock<std::mutex> lock(mutex_);
          opened_.wait(lock, [this] { return open_; });
          return absl::OkStatus();
        },
        [](absl::Status) {});
  }
  void Open() {
    std::lock_guard<std::mutex> lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

TEST(GroupCommit, WhatWaitsTogetherIsCommittedTogether) {
  StoreFixture fixture;
  fixture.AddArtifacts();
  const int64_t commits = fixture.store().Stats().commits;
  Gate gate(fixture.store());
  std::atomic<int> done{0};
  for (int i = 0; i < 100; ++i) {
    fixture.store().Enqueue(
        [](Transaction& t) { return CreateJob(t, StoreFixture::Submission()).status(); },
        [&](absl::Status status) { done += status.ok() ? 1 : 0; });
  }
  gate.Open();
  fixture.store().Flush();
  EXPECT_EQ(done, 100);
  // The gate's own, at most two for the hundred, the flush.
  EXPECT_LE(fixture.store().Stats().commits - commits, 4);
  EXPECT_EQ(fixture.store().Stats().jobs.at(v1::Job::QUEUED), 100);
}

TEST(GroupCommit, AFailingRequestTakesNothingWithIt) {
  StoreFixture fixture;
  fixture.AddArtifacts();
  Gate gate(fixture.store());
  std::vector<absl::StatusCode> codes;
  for (int i = 0; i < 3; ++i) {
    fixture.store().Enqueue(
        [i](Transaction& t) -> absl::Status {
          THAW_RETURN_IF_ERROR(CreateJob(t, StoreFixture::Submission()).status());
          return i == 1 ? absl::InternalError("after it wrote") : absl::OkStatus();
        },
        [&](absl::Status status) { codes.push_back(status.code()); });
  }
  gate.Open();
  fixture.store().Flush();
  EXPECT_EQ(codes, (std::vector<absl::StatusCode>{
                       absl::StatusCode::kOk, absl::StatusCode::kInternal, absl::StatusCode::kOk}));
  auto jobs = fixture.store().Read([](Reader& r) { return ListJobs(r, JobFilter(), 100, ""); });
  EXPECT_EQ(jobs->items.size(), 2u);
  EXPECT_EQ(fixture.store().Stats().jobs.at(v1::Job::QUEUED), 2);
}

TEST(GroupCommit, CallbacksSeeWhatWasCommitted) {
  StoreFixture fixture;
  fixture.AddArtifacts();
  std::vector<std::string> order;
  Subscription jobs = fixture.store().ObserveJobs([&](const std::vector<JobView>& views) {
    for (const JobView& view : views) order.push_back(v1::Job::State_Name(view.state));
  });
  const std::string job = fixture.Submit();
  Subscription events = fixture.store().SubscribeEvents(job, [&] { order.push_back("events"); });
  ASSERT_TRUE(fixture.store().Write([&](Transaction& t) { return CancelJob(t, "", job); }).ok());
  EXPECT_EQ(order, (std::vector<std::string>{"QUEUED", "CANCELLED", "events"}));
  events.Reset();
  jobs.Reset();
  fixture.Submit();
  EXPECT_EQ(order.size(), 3u);
}

TEST(DiskFull, IsAnErrorAndPassesWhenThereIsRoomAgain) {
  StoreFixture fixture;
  fixture.AddArtifacts();
  const std::string before = fixture.Submit();
  auto limit_pages = [&](const std::string& pages) {
    return fixture.store().Write([&](Transaction& t) {
      t.connection().Pragma("max_page_count=" + pages);
      return absl::OkStatus();
    });
  };
  ASSERT_TRUE(limit_pages("1").ok());  // SQLite takes the present size instead
  NewJob large = StoreFixture::Submission();
  large.spec.set_display_name(std::string(1 << 20, 'x'));
  const auto refused = fixture.store().Write([&](Transaction& t) { return CreateJob(t, large); });
  ASSERT_TRUE(absl::IsResourceExhausted(refused.status())) << refused.status();
  EXPECT_EQ(ReasonOf(refused.status()), "DISK_FULL");
  ASSERT_TRUE(limit_pages("1000000").ok());
  EXPECT_FALSE(fixture.Submit(large).empty());
  EXPECT_EQ(fixture.Get(before).state(), v1::Job::QUEUED);
  EXPECT_EQ(fixture.store().Stats().jobs.at(v1::Job::QUEUED), 2);
}

TEST(Stats, CountCommitsAndBytes) {
  StoreFixture fixture;
  int hooks = 0;
  fixture.Close();
  StoreOptions options = fixture.Options();
  options.on_commit_seconds = [&](double seconds) { hooks += seconds >= 0 ? 1 : 0; };
  auto store = Store::Open(options);
  ASSERT_TRUE(store.ok());
  (*store)->Flush();
  EXPECT_GE(hooks, 1);
  const StoreStats stats = (*store)->Stats();
  EXPECT_GE(stats.commits, 1);
  EXPECT_GT(stats.database_bytes, 0);
  EXPECT_EQ(stats.jobs.size(), 9u);
}

}  // namespace
}  // namespace thaw
