// WatchJob: every event once, in order, whoever comes late, leaves, or does not read.
#include <algorithm>
#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "common/base/status.h"
#include "gtest/gtest.h"
#include "tests/server/rpc/rpc_fixture.h"

namespace thaw {
namespace {

RpcServerOptions QuickHeartbeats() {
  RpcServerOptions options;
  options.heartbeat_seconds = 0.05;
  return options;
}

// What one watch brought.
struct Watched {
  std::vector<int64_t> sequences;
  int64_t as_of_sequence = -1;
  v1::Job snapshot;
  int heartbeats = 0;
  absl::Status status;
};

class WatchTest : public ::testing::Test, public RpcFixture {
 protected:
  WatchTest() : RpcFixture(QuickHeartbeats()), worker_(*this, "worker-1") {}

  // Reads until the stream ends or `enough` says so, which cancels it.
  Watched Watch(const std::string& who, const std::string& job, int64_t after,
                const std::function<bool(const Watched&)>& enough = {}) {
    v1::WatchJobRequest request;
    request.set_id(job);
    request.set_after_sequence(after);
    const auto context = As(who);
    const auto reader = jobs().WatchJob(context.get(), request);
    Watched watched;
    v1::WatchJobResponse message;
    while (reader->Read(&message)) {
      if (message.has_snapshot()) {
        watched.snapshot = message.snapshot();
        watched.as_of_sequence = message.as_of_sequence();
      }
      if (message.has_event()) watched.sequences.push_back(message.event().sequence());
      watched.heartbeats += message.has_heartbeat();
      if (enough && enough(watched)) context->TryCancel();
    }
    watched.status = FromGrpcStatus(reader->Finish());
    return watched;
  }
  std::string SubmitJob() {
    const auto job = Submit("ann", Spec("ann"));
    EXPECT_TRUE(job.ok()) << job.status();
    return job->id();
  }
  void ExpectAll(const Watched& watched, int64_t first, int64_t last) {
    EXPECT_TRUE(watched.status.ok()) << watched.status;
    std::vector<int64_t> expected;
    for (int64_t sequence = first; sequence <= last; ++sequence) expected.push_back(sequence);
    EXPECT_EQ(watched.sequences, expected);
  }
  // Runs the job to its end with `count` log lines, in Syncs of a few each.
  int64_t RunWithEvents(const std::string& job, int count) {
    const v1::Assignment assignment = worker_.Take();
    EXPECT_EQ(assignment.job(), job);
    for (int done = 0; done < count;) {
      const int some = std::min(7, count - done);
      EXPECT_TRUE(worker_.Sync({Running(assignment, done + 1, some)}).ok());
      done += some;
    }
    EXPECT_TRUE(worker_.Sync({Ended(assignment, v1::AttemptEnd::FAILED)}).ok());
    v1::GetJobRequest request;
    request.set_id(job);
    return Call(jobs(), &v1::FineTuneService::Stub::GetJob, "ann", request)->last_sequence();
  }

  ScriptedWorker worker_;
};

TEST_F(WatchTest, EveryWatcherSeesEveryEventOnceInOrder) {
  const std::string job = SubmitJob();
  std::vector<Watched> watched(20);
  std::vector<std::thread> watchers;
  for (Watched& one : watched) {
    watchers.emplace_back([&] { one = Watch(&one == &watched[0] ? "admin" : "ann", job, 0); });
  }
  const int64_t last = RunWithEvents(job, 200);
  for (std::thread& watcher : watchers) watcher.join();
  EXPECT_GT(last, 200);
  for (const Watched& one : watched) {
    ExpectAll(one, 1, last);
    EXPECT_EQ(one.snapshot.id(), job);
  }
}

TEST_F(WatchTest, ALateWatcherGoesOnWhereItLeftOff) {
  const std::string job = SubmitJob();
  const int64_t last = RunWithEvents(job, 100);
  for (const int64_t after : {int64_t{0}, int64_t{1}, int64_t{50}, last - 1, last}) {
    const Watched watched = Watch("ann", job, after);
    ExpectAll(watched, after + 1, last);
    EXPECT_EQ(watched.as_of_sequence, last);
    EXPECT_TRUE(watched.snapshot.done());
  }
}

TEST_F(WatchTest, BrokenWatchesLeaveNoGap) {
  const std::string job = SubmitJob();
  std::vector<int64_t> seen;
  std::thread watcher([&] {
    while (true) {
      const int64_t after = seen.empty() ? 0 : seen.back();
      const Watched watched = Watch(
          "ann", job, after, [](const Watched& so_far) { return so_far.sequences.size() >= 10; });
      seen.insert(seen.end(), watched.sequences.begin(), watched.sequences.end());
      if (watched.status.ok()) return;
    }
  });
  const int64_t last = RunWithEvents(job, 150);
  watcher.join();
  ASSERT_EQ(static_cast<int64_t>(seen.size()), last);
  for (int64_t i = 0; i < last; ++i) ASSERT_EQ(seen[i], i + 1);
}

TEST_F(WatchTest, AWatcherThatDoesNotReadHoldsUpNobody) {
  const std::string job = SubmitJob();
  v1::WatchJobRequest request;
  request.set_id(job);
  const auto context = As("ann");
  const auto reader = jobs().WatchJob(context.get(), request);
  v1::WatchJobResponse message;
  ASSERT_TRUE(reader->Read(&message));
  const int64_t last = RunWithEvents(job, 700);
  ExpectAll(Watch("ann", job, 0), 1, last);
  int64_t sequence = 0;
  while (reader->Read(&message)) {
    if (!message.has_event()) continue;
    ASSERT_EQ(message.event().sequence(), ++sequence);
  }
  EXPECT_EQ(sequence, last);
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(WatchTest, AQuietStreamBeats) {
  const std::string job = SubmitJob();
  const Watched watched =
      Watch("ann", job, 0, [](const Watched& so_far) { return so_far.heartbeats >= 3; });
  EXPECT_GE(watched.heartbeats, 3);
  EXPECT_EQ(watched.snapshot.state(), v1::Job::QUEUED);
  EXPECT_EQ(watched.snapshot.queue_position(), 1);
}

TEST_F(WatchTest, RefusesWhatIsNotThere) {
  const std::string job = SubmitJob();
  EXPECT_EQ(Watch("bob", job, 0).status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Watch("ann", "job-0000000000000000", 0).status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Watch("ann", job, 1000).status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Watch("ann", job, -1).status.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(WatchTest, AStoppingServerSaysUnavailable) {
  const std::string job = SubmitJob();
  std::vector<Watched> watched(5);
  std::vector<std::thread> watchers;
  std::atomic<int> begun = 0;
  for (Watched& one : watched) {
    watchers.emplace_back([&] {
      bool counted = false;
      one = Watch("ann", job, 0, [&](const Watched&) {
        begun += !std::exchange(counted, true);
        return false;
      });
    });
  }
  while (begun < static_cast<int>(watched.size())) std::this_thread::yield();
  server().Stop();
  for (std::thread& watcher : watchers) watcher.join();
  for (const Watched& one : watched) {
    EXPECT_EQ(one.status.code(), absl::StatusCode::kUnavailable) << one.status;
    EXPECT_GT(RetryAfterOf(one.status), 0);
  }
}

}  // namespace
}  // namespace thaw
