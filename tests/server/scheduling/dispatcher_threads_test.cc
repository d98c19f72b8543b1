// The dispatcher with its own thread and the machine's clock, many callers at once. Meant for
// ThreadSanitizer.
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/id.h"
#include "gtest/gtest.h"
#include "server/scheduling/dispatcher.h"
#include "tests/testing/sim_worker.h"
#include "tests/testing/store_fixture.h"

namespace thaw {
namespace {

constexpr int kWorkers = 4;
constexpr int kSubmitters = 3;
constexpr int kJobsEach = 20;

absl::StatusOr<v1::SyncResponse> SyncAndWait(Dispatcher& dispatcher,
                                             const v1::SyncRequest& request) {
  std::mutex mutex;
  std::condition_variable answered;
  std::optional<absl::StatusOr<v1::SyncResponse>> answer;
  dispatcher.Sync(request, [&](absl::StatusOr<v1::SyncResponse> response) {
    std::lock_guard<std::mutex> lock(mutex);
    answer = std::move(response);
    answered.notify_one();
  });
  std::unique_lock<std::mutex> lock(mutex);
  answered.wait(lock, [&] { return answer.has_value(); });
  return *std::move(answer);
}

// Takes work until the dispatcher stops.
void BeWorker(Store& store, Dispatcher& dispatcher, const std::string& name) {
  SimWorker worker(name, 2);
  while (true) {
    const absl::StatusOr<v1::SyncResponse> response = SyncAndWait(dispatcher, worker.Request());
    if (!response.ok()) {
      ASSERT_TRUE(absl::IsUnavailable(response.status())) << response.status();
      return;
    }
    worker.Apply(*response);
    for (auto& [id, attempt] : worker.attempts) {
      if (attempt.state == v1::AttemptReport::PREPARING) {
        attempt.state = v1::AttemptReport::RUNNING;
        SimWorker::AddLog(attempt, "begins");
      } else if (attempt.unacknowledged.empty()) {
        v1::Artifact artifact;
        artifact.set_id(NewId("result"));
        (void)store.Write([&](Transaction& t) { return CommitResult(t, id, artifact, {}); });
        SimWorker::End(attempt, v1::AttemptEnd::SUCCEEDED);
      }
    }
  }
}

TEST(DispatcherThreads, EveryJobIsDoneOnce) {
  StoreFixture fixture;
  // Time is real here; the fixture's clock only stamps rows.
  fixture.AddArtifacts();
  Dispatcher dispatcher(fixture.store(), RealClock(), DispatcherOptions());
  ASSERT_TRUE(dispatcher.Start().ok());

  std::mutex mutex;
  std::condition_variable changed;
  int done = 0;
  Subscription observer = fixture.store().ObserveJobs([&](const std::vector<JobView>& views) {
    std::lock_guard<std::mutex> lock(mutex);
    for (const JobView& view : views) done += view.state == v1::Job::SUCCEEDED ? 1 : 0;
    changed.notify_one();
  });
  std::vector<std::thread> threads;
  for (int i = 0; i < kWorkers; ++i) {
    threads.emplace_back([&, i] { BeWorker(fixture.store(), dispatcher, absl::StrCat("w", i)); });
  }
  std::vector<std::vector<std::string>> ids(kSubmitters);
  for (int i = 0; i < kSubmitters; ++i) {
    threads.emplace_back([&, i] {
      for (int j = 0; j < kJobsEach; ++j) {
        const std::string id = fixture.Submit();
        Subscription events = fixture.store().SubscribeEvents(id, [] {});
        v1::Job job = fixture.Get(id);
        dispatcher.FillQueue(&job);
        dispatcher.Stats();
        ids[i].push_back(id);
      }
    });
  }
  {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return done == kSubmitters * kJobsEach; });
  }
  dispatcher.Stop();
  for (std::thread& thread : threads) thread.join();
  for (const auto& mine : ids) {
    for (const std::string& id : mine) {
      EXPECT_EQ(fixture.Get(id).state(), v1::Job::SUCCEEDED);
      EXPECT_EQ(fixture.Get(id).attempt(), 1);
      fixture.CheckHistory(id);
    }
  }
}

}  // namespace
}  // namespace thaw
