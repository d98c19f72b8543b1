#include "client/job_client.h"

#include <thread>

#include "client/thaw_client.h"
#include "common/base/status.h"
#include "gmock/gmock.h"
#include "tests/client/fake_thaw_server.h"

namespace thaw {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class JobClientTest : public testing::Test {
 protected:
  JobClientTest() {
    ConnectionOptions options;
    options.server = server_.address();
    options.token_file = server_.token_file();
    options.retry_seconds = 30;
    auto client = ThawClient::Connect(options);
    EXPECT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    AddJob("job-1", v1::Job::RUNNING);
  }

  void AddJob(const std::string& id, v1::Job::State state) {
    v1::Job job;
    job.set_id(id);
    job.set_state(state);
    server_.AddJob(job);
  }

  std::vector<int64_t> SequencesOf(int64_t after) {
    std::vector<int64_t> sequences;
    int snapshots = 0;
    WatchOptions options;
    options.after_sequence = after;
    const absl::Status status = jobs().WatchJob("job-1", options, [&](const auto& message) {
      if (message.has_event()) sequences.push_back(message.event().sequence());
      snapshots += message.has_snapshot() ? 1 : 0;
      return true;
    });
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(snapshots, 1);
    return sequences;
  }

  JobClient& jobs() { return client_->jobs(); }

  FakeThawServer server_;
  std::unique_ptr<ThawClient> client_;
};

TEST_F(JobClientTest, ACallIsRepeatedWithOneRequestIdUntilItIsAnswered) {
  server_.FailNext("CreateJob", 2, absl::UnavailableError("not now"));
  const auto job = jobs().CreateJob({});
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(server_.CallsOf("CreateJob"), 3);
  ASSERT_EQ(server_.created().size(), 1u);
  EXPECT_EQ(server_.created()[0].request_id().size(), 32u);
}

TEST_F(JobClientTest, WhatMayNotBeRepeatedIsNot) {
  server_.FailNext("ResumeJob", 1, absl::UnavailableError("not now"));
  EXPECT_TRUE(absl::IsUnavailable(jobs().ResumeJob("job-1").status()));
  EXPECT_EQ(server_.CallsOf("ResumeJob"), 1);
}

TEST_F(JobClientTest, ErrorsKeepTheirFieldsAndReason) {
  server_.FailNext("CreateJob", 1, InvalidFields({{"spec.a", "is wrong"}, {"spec.b", "is too"}}));
  const absl::Status invalid = jobs().CreateJob({}).status();
  EXPECT_TRUE(absl::IsInvalidArgument(invalid));
  ASSERT_EQ(ViolationsOf(invalid).size(), 2u);
  EXPECT_EQ(ViolationsOf(invalid)[1].field, "spec.b");
  const absl::Status paused = jobs().ResumeJob("job-1").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(paused));
  EXPECT_EQ(ReasonOf(paused), "NOT_PAUSED");
}

TEST_F(JobClientTest, AServerThatIsNotThereIsToldWithTheRemedy) {
  ConnectionOptions options;
  options.server = "127.0.0.1:1";
  options.token_file = server_.token_file();
  options.retry_seconds = 0;
  const auto client = ThawClient::Connect(options);
  ASSERT_TRUE(client.ok());
  const absl::Status status = (*client)->jobs().GetJob("job-1").status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("thaw up"));
}

TEST_F(JobClientTest, ListsAllPagesUpToTheLimit) {
  for (const char* id : {"job-2", "job-3", "job-4", "job-5"}) AddJob(id, v1::Job::QUEUED);
  JobFilter all;
  all.limit = 0;
  EXPECT_EQ(jobs().ListJobs(all)->size(), 5u);
  JobFilter three;
  three.limit = 3;
  EXPECT_EQ(jobs().ListJobs(three)->size(), 3u);
}

TEST_F(JobClientTest, AWatchGivesEveryEventOnceAndInOrderThroughBreaks) {
  server_.events = TrainingHistory(6);
  const std::vector<int64_t> all = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  for (const int break_every : {0, 5, 2, 1}) {
    server_.break_every = break_every;
    EXPECT_EQ(SequencesOf(0), all) << "broken after every " << break_every;
  }
  EXPECT_THAT(SequencesOf(9), ElementsAre(10, 11, 12));
}

TEST_F(JobClientTest, AWatchEndsWhenTheCallerHasSeenEnough) {
  server_.events = TrainingHistory(6);
  server_.hold_watches = true;
  int seen = 0;
  const absl::Status status = jobs().WatchJob("job-1", {}, [&](const auto&) { return ++seen < 3; });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(seen, 3);
}

TEST_F(JobClientTest, AWatchIsStoppedFromAnotherThread) {
  server_.events = TrainingHistory(1);
  server_.hold_watches = true;
  std::thread stopper;
  const absl::Status status = jobs().WatchJob("job-1", {}, [&](const auto& message) {
    if (message.has_event() && message.event().sequence() == 1) {
      stopper = std::thread([&] { jobs().StopWatching(); });
    }
    return true;
  });
  stopper.join();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_TRUE(absl::IsCancelled(jobs().WatchJob("job-1", {}, [](const auto&) { return true; })));
}

TEST_F(JobClientTest, AWatchOfNoJobFailsAtOnce) {
  const absl::Status status = jobs().WatchJob("job-9", {}, [](const auto&) { return true; });
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_EQ(server_.CallsOf("WatchJob"), 1);
}

TEST_F(JobClientTest, AWatchThatCannotBeTakenUpAgainIsGivenUp) {
  server_.events = TrainingHistory(6);
  server_.break_every = 3;
  WatchOptions options;
  options.reconnect_seconds = 0;
  int64_t last = 0;
  const absl::Status status = jobs().WatchJob("job-1", options, [&](const auto& message) {
    if (message.has_event()) last = message.event().sequence();
    return true;
  });
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(last, 3);
}

TEST_F(JobClientTest, ReadsAllEventsAndTheWholeLog) {
  server_.events = TrainingHistory(6);
  EXPECT_EQ(jobs().ListJobEvents("job-1", 0)->size(), 12u);
  EXPECT_EQ(jobs().ListJobEvents("job-1", 10)->size(), 2u);
  server_.log = "a log that comes in several pieces\n";
  std::string log;
  ASSERT_TRUE(jobs()
                  .ReadJobLog("job-1", 0,
                              [&](absl::string_view text) { log.append(text.data(), text.size()); })
                  .ok());
  EXPECT_EQ(log, server_.log);
}

}  // namespace
}  // namespace thaw
