// Workers, users and a network that loses, repeats and delays messages, with restarts of either
// side, on a fake clock. Whatever happens, the promises hold: no job is lost or doubled, every
// history is legal and gap-free, there is one result per success and none otherwise, a cancel is
// final, events arrive once and in order; and once the faults stop, every job ends.
#include <algorithm>
#include <cstdlib>
#include <deque>
#include <list>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/id.h"
#include "common/base/log.h"
#include "gtest/gtest.h"
#include "tests/server/scheduling/cluster.h"

namespace thaw {
namespace {

using v1::AttemptEnd;
using v1::AttemptReport;
using v1::DesiredAttempt;
using v1::Job;

constexpr int kWorkers = 3;
constexpr int kJobs = 12;
constexpr int kSteps = 500;

class Simulation {
 public:
  explicit Simulation(uint32_t seed) : random_(seed) {
    for (int i = 0; i < kWorkers; ++i) workers_.emplace_back(absl::StrCat("w", i), 1 + i % 2);
  }

  void Run() {
    for (int i = 0; i < kSteps; ++i) Step(/*faults=*/true);
    while (static_cast<int>(jobs_.size()) < kJobs) SubmitOne();
    for (SimPeer& peer : workers_) {
      // A drained worker is replaced by a fresh process.
      peer.worker.Restart();
      peer.worker.draining = false;
      peer.waiting = false;
    }
    for (int i = 0; i < 600 && !AllDone(); ++i) Step(/*faults=*/false);
    Check();
  }

 private:
  struct SimPeer {
    SimPeer(std::string name, int slots) : worker(std::move(name), slots) {}
    SimWorker worker;
    bool waiting = false;  // a Sync is outstanding
    double give_up_at = 0;
    double cut_off_until = 0;  // nothing gets through
    std::map<std::string, std::string>
        results;  // attempt -> id of the artifact it tries to publish
  };
  struct Message {
    double at = 0;
    size_t peer = 0;
    v1::SyncRequest request;    // up
    v1::SyncResponse response;  // down
    bool up = true;
  };

  int Roll(int n) { return static_cast<int>(random_() % n); }
  bool Chance(int percent) { return Roll(100) < percent; }

  bool CutOff(const SimPeer& peer) const { return faults_ && peer.cut_off_until > now_; }

  void Post(Message message) {
    if (CutOff(workers_[message.peer])) return;
    const int copies = !faults_ ? 1 : Chance(10) ? 0 : Chance(10) ? 2 : 1;
    for (int i = 0; i < copies; ++i) {
      message.at = now_ + (!faults_ ? 0 : Chance(10) ? Roll(200) : Roll(10) * 0.1);
      network_.push_back(message);
    }
  }

  void SubmitOne() {
    NewJob job = StoreFixture::Submission("ann", absl::StrCat("request-", jobs_.size()));
    v1::RetryLimits& limits = *job.resolved_spec.mutable_retry_limits();
    limits.set_losses_in_a_row(100);
    limits.set_crashes(10);
    const std::string id = cluster_.Submit(job);
    // The answer was lost: the client tries again.
    if (Chance(50)) {
      ASSERT_EQ(cluster_.Submit(job), id);
    }
    jobs_.push_back(id);
  }

  void Step(bool faults) {
    faults_ = faults;
    const double seconds = faults && Chance(2) ? 130 : Roll(20) * 0.1;
    now_ += seconds;
    cluster_.Advance(seconds);
    DeliverMessages();
    CollectReplies();
    for (size_t i = 0; i < workers_.size(); ++i) {
      Work(workers_[i]);
      if (!workers_[i].waiting || now_ > workers_[i].give_up_at) SendSync(i);
    }
    if (static_cast<int>(jobs_.size()) < kJobs && Chance(10)) SubmitOne();
    ActAsUser();
    if (faults) Break();
  }

  void SendSync(size_t i) {
    SimPeer& peer = workers_[i];
    peer.waiting = true;
    peer.give_up_at = now_ + 40;
    Message message;
    message.peer = i;
    message.request = peer.worker.Request();
    Post(std::move(message));
  }

  void DeliverMessages() {
    std::vector<Message> due;
    for (auto it = network_.begin(); it != network_.end();) {
      if (it->at <= now_) {
        due.push_back(*it);
        it = network_.erase(it);
      } else {
        ++it;
      }
    }
    if (faults_) std::shuffle(due.begin(), due.end(), random_);
    for (Message& message : due) {
      SimPeer& peer = workers_[message.peer];
      if (message.up) {
        replies_.emplace_back(message.peer, cluster_.Send(message.request));
      } else {
        if (peer.worker.Awaits(message.response)) peer.waiting = false;
        peer.worker.Apply(message.response);
      }
    }
  }

  void CollectReplies() {
    for (auto it = replies_.begin(); it != replies_.end();) {
      if (!it->second->has_value()) {
        ++it;
        continue;
      }
      if ((*it->second)->ok()) {
        Message message;
        message.up = false;
        message.peer = it->first;
        message.response = ***it->second;
        Post(std::move(message));
      } else {
        workers_[it->first].waiting = false;
      }
      it = replies_.erase(it);
    }
  }

  // What the agent and its trainers do.
  void Work(SimPeer& peer) {
    for (auto& [id, attempt] : peer.worker.attempts) {
      if (attempt.state == AttemptReport::ENDED) continue;
      if (attempt.verdict == DesiredAttempt::STOP) {
        SimWorker::End(attempt, AttemptEnd::STOPPED);
        continue;
      }
      if (attempt.state == AttemptReport::PREPARING) {
        if (Chance(50)) attempt.state = AttemptReport::RUNNING;
        continue;
      }
      if (peer.results.count(id) != 0) {
        Publish(peer, id, attempt);
        continue;
      }
      if (Chance(60)) {
        SimWorker::AddLog(attempt, absl::StrCat(id, " ", ++lines_[id]));
      }
      SimWorker::Steer(attempt, ++trained_, Chance(20));
      if (Chance(20) && !CutOff(peer)) Checkpoint(id);
      if (attempt.verdict == DesiredAttempt::PAUSE) {
        Checkpoint(id);
        SimWorker::End(attempt, AttemptEnd::PAUSED);
      } else if (attempt.verdict == DesiredAttempt::HAND_BACK) {
        SimWorker::End(attempt, AttemptEnd::HANDED_BACK);
      } else if (Chance(8)) {
        peer.results[id] = NewId("result");
      } else if (faults_ && Chance(2)) {
        SimWorker::End(attempt, AttemptEnd::CRASHED, ++crash_step_);
      }
    }
  }

  void Checkpoint(const std::string& id) {
    NewCheckpoint checkpoint;
    checkpoint.artifact.set_id(NewId("checkpoint"));
    (void)cluster_.store().Write(
        [&](Transaction& t) { return CommitCheckpoint(t, id, checkpoint); });
  }

  // Everything before the result must have arrived; then the same artifact is published until an
  // answer comes.
  void Publish(SimPeer& peer, const std::string& id, SimWorker::Attempt& attempt) {
    if (!attempt.unacknowledged.empty() || CutOff(peer)) return;
    v1::Artifact artifact;
    artifact.set_id(peer.results[id]);
    auto committed =
        cluster_.store().Write([&](Transaction& t) { return CommitResult(t, id, artifact, {}); });
    cluster_.Settle();
    if (committed.ok()) {
      published_.insert(artifact.id());
      EXPECT_EQ(cluster_.fixture().Get(attempt.job).attempt(), attempt.assignment.attempt())
          << "an attempt that was replaced has published";
    }
    if (faults_ && Chance(30)) return;  // the answer is lost
    SimWorker::End(attempt, committed.ok() ? AttemptEnd::SUCCEEDED : AttemptEnd::STOPPED);
  }

  void ActAsUser() {
    if (jobs_.empty()) return;
    const std::string& job = jobs_[Roll(static_cast<int>(jobs_.size()))];
    if (faults_ && Chance(3) && cluster_.Cancel(job).ok()) cancelled_.insert(job);
    if (faults_ && Chance(4)) (void)cluster_.Pause(job);
    if (faults_ && Chance(20)) {
      (void)cluster_.Steer(job, absl::StrCat(trained_));
      // The answer was lost: the client tries again.
      if (Chance(50)) (void)cluster_.Steer(job, absl::StrCat(trained_));
    }
    if (!faults_ || Chance(10)) {
      for (const std::string& paused : jobs_) {
        (void)cluster_.store().Write([&](Transaction& t) { return ResumeJob(t, "", paused); });
      }
      cluster_.Settle();
    }
  }

  void Break() {
    if (Chance(2)) {
      cluster_.RestartServer();
      // Connections are gone with it.
      for (SimPeer& peer : workers_) peer.waiting = false;
      replies_.clear();
    }
    SimPeer& peer = workers_[Roll(kWorkers)];
    if (Chance(2)) {
      peer.worker.Restart();
      peer.waiting = false;
      peer.results.clear();
    }
    // Long enough for its jobs to be given to others, who may then meet it again.
    if (Chance(3)) peer.cut_off_until = now_ + 100 + Roll(100);
    if (Chance(1)) (void)cluster_.dispatcher().DrainWorker(peer.worker.name());
  }

  bool AllDone() {
    return std::all_of(jobs_.begin(), jobs_.end(),
                       [&](const std::string& id) { return IsTerminal(cluster_.State(id)); });
  }

  void Check() {
    EXPECT_EQ(std::set<std::string>(jobs_.begin(), jobs_.end()).size(), jobs_.size());
    auto all = cluster_.store().Read([](Reader& r) { return ListJobs(r, JobFilter(), 1'000, ""); });
    ASSERT_TRUE(all.ok());
    EXPECT_EQ(all->items.size(), jobs_.size()) << "a job was lost or doubled";
    auto results = cluster_.store().Read(
        [](Reader& r) { return ListArtifacts(r, "", v1::Artifact::RESULT, 1'000, ""); });
    ASSERT_TRUE(results.ok());
    std::map<std::string, std::string> result_of;
    for (const v1::Artifact& result : results->items) {
      EXPECT_TRUE(result_of.emplace(result.job(), result.id()).second) << "two results of one job";
      EXPECT_EQ(published_.count(result.id()), 1u);
    }
    EXPECT_EQ(published_.size(), results->items.size());
    for (const std::string& id : jobs_) {
      const Job job = cluster_.fixture().Get(id);
      EXPECT_TRUE(job.done()) << id << " is stuck: " << job.state_reason();
      EXPECT_EQ(job.state() == Job::SUCCEEDED, result_of.count(id) == 1) << id;
      EXPECT_EQ(job.result(), result_of[id]);
      if (cancelled_.count(id) != 0) {
        EXPECT_EQ(job.state(), Job::CANCELLED) << id;
      }
      cluster_.fixture().CheckHistory(id);
      CheckLines(id);
      CheckSteerings(id);
    }
    EXPECT_EQ(cluster_.dispatcher().Stats().live_attempts, 0);
  }

  // Each number is applied once, after one step, in the order of asking.
  void CheckSteerings(const std::string& id) {
    const Job job = cluster_.fixture().Get(id);
    int32_t asked = 0, applied = 0;
    for (const v1::Event& event : cluster_.fixture().Events(id)) {
      if (event.has_steering_asked()) {
        ASSERT_EQ(event.steering_asked().number(), ++asked) << id;
      }
      if (!event.has_steering_applied()) continue;
      ASSERT_EQ(event.steering_applied().number(), ++applied) << id;
      ASSERT_LE(applied, asked) << id;
      EXPECT_EQ(event.steering_applied().step(), job.steerings(applied - 1).step()) << id;
    }
    ASSERT_EQ(job.steerings_size(), asked) << id;
    for (int i = 0; i < asked; ++i) EXPECT_EQ(job.steerings(i).applied(), i < applied) << id;
  }

  // The lines of each attempt: 1, 2, 3 …, each once.
  void CheckLines(const std::string& job) {
    std::map<std::string, int64_t> last;
    for (const v1::Event& event : cluster_.fixture().Events(job)) {
      if (!event.has_log_line()) continue;
      const std::vector<std::string> parts = absl::StrSplit(event.log_line().text(), ' ');
      int64_t number = 0;
      ASSERT_TRUE(absl::SimpleAtoi(parts[1], &number));
      ASSERT_EQ(number, ++last[parts[0]]) << job << " " << parts[0];
    }
  }

  std::mt19937 random_;
  Cluster cluster_;
  std::deque<SimPeer> workers_;
  std::list<Message> network_;
  std::list<std::pair<size_t, Reply>> replies_;
  std::vector<std::string> jobs_;
  std::set<std::string> cancelled_;
  std::set<std::string> published_;
  double now_ = 0;
  int64_t crash_step_ = 0;
  std::map<std::string, int64_t> lines_;  // of each attempt
  int64_t trained_ = 0;                   // goes up with whatever is trained anywhere
  bool faults_ = true;
};

TEST(ProtocolSimulation, KeepsEveryPromise) {
  SetLogLevel(LogLevel::kError);
  // THAW_SEED=<n> repeats one run.
  const char* fixed = std::getenv("THAW_SEED");
  const uint32_t first =
      fixed != nullptr ? static_cast<uint32_t>(std::atoll(fixed)) : std::random_device{}();
  const int runs = fixed != nullptr ? 1 : 5;
  for (int i = 0; i < runs && !testing::Test::HasFailure(); ++i) {
    SCOPED_TRACE(testing::Message() << "THAW_SEED=" << first + i);
    Simulation(first + i).Run();
  }
}

}  // namespace
}  // namespace thaw
