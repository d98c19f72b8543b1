// The whole loop against a server that this file plays, with the fake trainer as child process.
#include "worker/agent/agent.h"

#include <cstdlib>
#include <deque>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"

namespace thaw {
namespace {

using Verdict = v1::DesiredAttempt;

// A server with one job, played by the book: offers until accepted, acknowledges events once and in
// order, forgets what has ended. Faults are put between it and the worker.
class PlayedServer final : public ServerLink {
 public:
  explicit PlayedServer(v1::Assignment assignment) : assignment_(std::move(assignment)) {}

  absl::StatusOr<v1::SyncResponse> Sync(const v1::SyncRequest& request) override {
    MutexLock lock(mutex_);
    EXPECT_GT(request.number(), number_) << "numbers count up";
    number_ = request.number();
    ++syncs_;
    if (!refusal_.ok()) return refusal_;
    // Lost before it arrived.
    if (fault_ == 1 && syncs_ % 3 == 1) return absl::UnavailableError("request lost");
    v1::SyncResponse response = Answer(request);
    changed_.SignalAll();
    // Lost on the way back: everything in it was done.
    if (fault_ == 2 && syncs_ % 3 == 1) return absl::DeadlineExceededError("answer lost");
    // An old answer instead of the new one.
    if (fault_ == 3 && syncs_ % 3 == 1) std::swap(response, late_);
    if (fault_ == 3 && syncs_ % 3 == 2) late_ = response;
    if (Idle(request) && accepted_) {
      while (!cancelled_) changed_.Wait(mutex_);
      cancelled_ = false;
      return absl::CancelledError("cancelled");
    }
    return response;
  }
  void CancelSync() override {
    MutexLock lock(mutex_);
    cancelled_ = true;
    changed_.SignalAll();
  }
  absl::Status Download(const std::string&, const v1::Artifact&, const std::string& directory,
                        const std::function<bool()>&) override {
    return MakeDirectories(directory);
  }
  absl::Status Publish(const std::string& attempt, const std::string&,
                       const v1::FinishUploadRequest& finish,
                       const std::function<bool()>&) override {
    MutexLock lock(mutex_);
    EXPECT_EQ(attempt, assignment_.attempt_id());
    if (finish.has_result()) {
      ++results_;
      EXPECT_TRUE(phases_seen_ > 0 && !points_.empty()) << "events are committed before the result";
    } else {
      ++checkpoints_;
    }
    return absl::OkStatus();
  }

  void Break(int fault) { fault_ = fault; }
  void Refuse(absl::Status status) {
    MutexLock lock(mutex_);
    refusal_ = std::move(status);
    cancelled_ = true;
    changed_.SignalAll();
  }
  void Order(Verdict::Verdict verdict) {
    MutexLock lock(mutex_);
    verdict_ = verdict;
  }
  // Waits for what the worker reports; false after a minute.
  bool WaitFor(const std::function<bool()>& condition) {
    MutexLock lock(mutex_);
    for (int i = 0; i < 1200 && !condition(); ++i) changed_.WaitFor(mutex_, 0.05);
    return condition();
  }

  // Read under WaitFor, or when the agent has stopped.
  std::vector<v1::AttemptEnd> ends_;
  std::set<int64_t> points_;
  int phases_seen_ = 0;
  int results_ = 0, checkpoints_ = 0;
  int64_t sequence_ = 0;
  int64_t syncs_ = 0;
  bool running_seen_ = false;
  bool draining_seen_ = false;
  std::string output_;

 private:
  static bool Idle(const v1::SyncRequest& request) {
    return request.attempts().empty() && !request.draining();
  }

  v1::SyncResponse Answer(const v1::SyncRequest& request) {
    v1::SyncResponse response;
    response.set_incarnation(request.incarnation());
    response.set_number(request.number());
    response.mutable_lease()->set_seconds(90);
    response.mutable_next_sync()->set_nanos(20'000'000);
    draining_seen_ = draining_seen_ || request.draining();
    bool held = false;
    for (const v1::AttemptReport& report : request.attempts()) {
      held = true;
      Take(report, response.add_attempts());
    }
    if (!held && !accepted_ && !request.draining()) {
      Verdict& offer = *response.add_attempts();
      offer.set_attempt_id(assignment_.attempt_id());
      offer.set_verdict(Verdict::RUN);
      *offer.mutable_assignment() = assignment_;
      response.mutable_next_sync()->clear_nanos();
    }
    EXPECT_TRUE(held || !accepted_ || !ends_.empty()) << "an accepted attempt is missing";
    return response;
  }

  void Take(const v1::AttemptReport& report, Verdict* answer) {
    accepted_ = true;
    running_seen_ = running_seen_ || report.state() == v1::AttemptReport::RUNNING;
    for (const v1::WorkerEvent& event : report.events()) {
      if (event.sequence() <= sequence_) continue;
      EXPECT_EQ(event.sequence(), sequence_ + 1) << "a gap";
      sequence_ = event.sequence();
      if (event.event().has_phase_start()) ++phases_seen_;
      for (const auto& point : event.event().metric_points().points()) {
        EXPECT_TRUE(points_.insert(point.step()).second) << "step " << point.step() << " twice";
      }
    }
    if (!report.log_chunk().empty() && report.log_offset() == static_cast<int64_t>(output_.size()))
      output_ += report.log_chunk();
    answer->set_attempt_id(report.attempt_id());
    answer->set_acknowledged_sequence(sequence_);
    if (!report.log_chunk().empty())
      answer->set_log_committed(static_cast<int64_t>(output_.size()));
    answer->set_verdict(verdict_);
    if (report.state() == v1::AttemptReport::ENDED) {
      if (ends_.empty()) ends_.push_back(report.end());
      answer->set_verdict(Verdict::FORGET);
    }
  }

  const v1::Assignment assignment_;
  Mutex mutex_;
  CondVar changed_;
  int fault_ = 0;
  int64_t number_ = 0;
  bool accepted_ = false, cancelled_ = false;
  absl::Status refusal_;
  Verdict::Verdict verdict_ = Verdict::RUN;
  v1::SyncResponse late_;
};

class AgentTest : public ::testing::Test {
 protected:
  static v1::Assignment Work(const std::string& fake) {
    v1::Assignment assignment;
    assignment.set_job("job-1");
    assignment.set_attempt_id("0123456789abcdef0123456789abcdef");
    assignment.set_attempt(1);
    assignment.mutable_model()->set_digest(Sha256Hex("m"));
    (*assignment.mutable_spec()->mutable_labels())["fake"] = fake;
    v1::Training& training = *assignment.mutable_spec()->mutable_training();
    training.mutable_checkpoint()->set_every_steps(5);
    training.add_phases()->set_steps(20);
    training.add_phases()->set_steps(20);
    return assignment;
  }
  void Start(PlayedServer& server) {
    AgentOptions options;
    options.name = "w";
    options.cache_dir = dir_.path() + "/cache";
    options.attempt.trainer = std::string(std::getenv("THAW_BIN")) + "/thaw-fake-trainer";
    options.attempt.attempts_dir = dir_.path() + "/attempts";
    agent_ = std::make_unique<Agent>(options, server, RealClock());
    thread_ = std::thread([this] { status_ = agent_->Run(); });
  }
  absl::Status Join() {
    thread_.join();
    agent_.reset();
    return status_;
  }

  TempDir dir_;
  std::unique_ptr<Agent> agent_;
  std::thread thread_;
  absl::Status status_;
};

TEST_F(AgentTest, EventsArriveOnceAndInOrderWhateverTheNetworkDoes) {
  for (const int fault : {0, 1, 2, 3}) {
    PlayedServer server(Work("ok"));
    server.Break(fault);
    Start(server);
    EXPECT_TRUE(server.WaitFor([&] { return !server.ends_.empty(); })) << fault;
    server.Break(0);
    agent_->Drain();
    EXPECT_TRUE(Join().ok());
    ASSERT_EQ(server.ends_.size(), 1u) << fault;
    EXPECT_EQ(server.ends_[0].outcome(), v1::AttemptEnd::SUCCEEDED) << fault;
    EXPECT_EQ(server.results_, 1) << fault;
    EXPECT_EQ(server.phases_seen_, 2) << fault;
    EXPECT_EQ(server.points_.size(), 40u) << fault;
    EXPECT_TRUE(server.draining_seen_);
    const auto left = ListFiles(dir_.path() + "/attempts");
    EXPECT_TRUE(left.ok() && left->empty()) << "files of a forgotten attempt";
  }
}

TEST_F(AgentTest, ADrainHandsBackWithACheckpoint) {
  PlayedServer server(Work("slow"));
  Start(server);
  ASSERT_TRUE(server.WaitFor([&] { return !server.points_.empty(); }));
  agent_->Drain();
  agent_->Drain();  // again: nothing
  EXPECT_TRUE(Join().ok());
  ASSERT_EQ(server.ends_.size(), 1u);
  EXPECT_EQ(server.ends_[0].outcome(), v1::AttemptEnd::HANDED_BACK);
  EXPECT_GE(server.checkpoints_, 1);
  EXPECT_EQ(server.results_, 0);
}

TEST_F(AgentTest, AForgottenAttemptStopsAtOnceAndIsNotReportedAgain) {
  PlayedServer server(Work("slow.deaf"));
  Start(server);
  ASSERT_TRUE(server.WaitFor([&] { return server.running_seen_; }));
  server.Order(Verdict::FORGET);
  // The played server minds an accepted attempt that is missing unless it has ended.
  ASSERT_TRUE(server.WaitFor([&] {
    if (server.ends_.empty()) server.ends_.emplace_back();
    return true;
  }));
  agent_->Drain();
  EXPECT_TRUE(Join().ok());
  EXPECT_EQ(server.results_, 0);
}

TEST_F(AgentTest, WithoutWorkItLeavesAlsoWhenTheServerIsAway) {
  PlayedServer server(Work("ok"));
  server.Refuse(absl::UnavailableError("no server"));
  Start(server);
  ASSERT_TRUE(server.WaitFor([&] { return server.syncs_ > 0; }));
  agent_->Drain();
  EXPECT_TRUE(Join().ok());
}

TEST_F(AgentTest, RefusalsForGoodEndIt) {
  const absl::Status refusals[] = {
      WithReason(absl::FailedPreconditionError("another process has this name"), "WORKER_REPLACED"),
      absl::UnauthenticatedError("no such token"), absl::PermissionDeniedError("no worker"),
      absl::InvalidArgumentError("worker name")};
  for (const absl::Status& refusal : refusals) {
    PlayedServer server(Work("slow"));
    Start(server);
    ASSERT_TRUE(server.WaitFor([&] { return server.running_seen_; }));
    server.Refuse(refusal);
    EXPECT_EQ(Join(), refusal);
  }
}

TEST_F(AgentTest, AnOfferThatMeetsADrainIsHandedBack) {
  PlayedServer server(Work("ok"));
  Start(server);
  agent_->Drain();
  EXPECT_TRUE(Join().ok());
  EXPECT_TRUE(server.ends_.empty() || server.ends_[0].outcome() == v1::AttemptEnd::HANDED_BACK);
}

TEST_F(AgentTest, AnIdThatLeadsElsewhereIsRefused) {
  const std::string kept = dir_.path() + "/kept";
  ASSERT_TRUE(MakeDirectories(kept).ok());
  ASSERT_TRUE(WriteFileAtomically(kept + "/file", "of somebody else").ok());
  v1::Assignment assignment = Work("ok");
  assignment.set_attempt_id("../kept");
  PlayedServer server(assignment);
  Start(server);
  ASSERT_TRUE(server.WaitFor([&] { return server.syncs_ > 2; }));
  agent_->Drain();
  EXPECT_TRUE(Join().ok());
  EXPECT_TRUE(Exists(kept + "/file"));
  EXPECT_TRUE(server.ends_.empty());
}

}  // namespace
}  // namespace thaw
