// Store, dispatcher and simulated workers on one clock, driven by hand.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "server/jobs/steering_table.h"
#include "server/scheduling/dispatcher.h"
#include "tests/testing/sim_worker.h"
#include "tests/testing/store_fixture.h"

namespace thaw {

// What became of one Sync.
using Reply = std::shared_ptr<std::optional<absl::StatusOr<v1::SyncResponse>>>;

class Cluster {
 public:
  explicit Cluster(DispatcherOptions options = DispatcherOptions()) : options_(options) {
    options_.run_thread = false;
    fixture_.AddArtifacts();
    StartDispatcher();
  }

  void StartDispatcher() {
    dispatcher_ = std::make_unique<Dispatcher>(fixture_.store(), fixture_.clock(), options_);
    ASSERT_TRUE(dispatcher_->Start().ok());
    Settle();
  }
  // As after kill -9: what is held is never answered.
  void RestartServer() {
    dispatcher_.reset();
    fixture_.Reopen();
    StartDispatcher();
  }

  // Until all writes are committed and everything that follows from them is done.
  void Settle() {
    for (int i = 0; i < 4; ++i) {
      fixture_.store().Flush();
      dispatcher_->Tick();
    }
  }
  void Advance(double seconds) {
    fixture_.clock().AdvanceSeconds(seconds);
    Settle();
  }

  Reply Send(const v1::SyncRequest& request) {
    auto reply = std::make_shared<std::optional<absl::StatusOr<v1::SyncResponse>>>();
    tickets_[reply.get()] = dispatcher_->Sync(
        request,
        [reply](absl::StatusOr<v1::SyncResponse> response) { *reply = std::move(response); });
    Settle();
    return reply;
  }
  void Cancel(const Reply& reply) { dispatcher_->CancelSync(tickets_.at(reply.get())); }

  // One round as it should be: the request arrives, the answer too.
  Reply Sync(SimWorker& worker) {
    Reply reply = Send(worker.Request());
    Deliver(worker, reply);
    return reply;
  }
  static void Deliver(SimWorker& worker, const Reply& reply) {
    if (reply->has_value() && (*reply)->ok()) worker.Apply(***reply);
  }
  // Syncs until the worker holds an attempt that runs.
  void RunOn(SimWorker& worker) {
    Sync(worker);
    ASSERT_EQ(worker.attempts.size(), 1u) << "no work for " << worker.name();
    worker.only().state = v1::AttemptReport::RUNNING;
    Sync(worker);
  }

  std::string Submit(const NewJob& job = StoreFixture::Submission()) {
    const std::string id = fixture_.Submit(job);
    Settle();
    return id;
  }
  v1::Job Get(const std::string& id) {
    v1::Job job = fixture_.Get(id);
    dispatcher_->FillQueue(&job);
    return job;
  }
  v1::Job::State State(const std::string& id) { return fixture_.Get(id).state(); }
  absl::Status Cancel(const std::string& id) {
    auto job = store().Write([&](Transaction& t) { return CancelJob(t, "", id); });
    Settle();
    return job.status();
  }
  absl::Status Pause(const std::string& id) {
    auto job = store().Write([&](Transaction& t) { return PauseJob(t, "", id); });
    Settle();
    return job.status();
  }
  absl::Status Steer(const std::string& id, const std::string& request_id) {
    v1::SteerJobRequest request;
    request.set_id(id);
    request.set_request_id(request_id);
    request.mutable_action()->set_checkpoint(true);
    auto job = store().Write([&](Transaction& t) { return SteerJob(t, "", request); });
    Settle();
    return job.status();
  }
  // What a worker does before it reports SUCCEEDED.
  absl::Status Publish(const std::string& attempt_id) {
    v1::Artifact artifact;
    artifact.set_id(NewId("result"));
    auto committed =
        store().Write([&](Transaction& t) { return CommitResult(t, attempt_id, artifact, {}); });
    Settle();
    return committed.status();
  }

  Store& store() { return fixture_.store(); }
  Dispatcher& dispatcher() { return *dispatcher_; }
  StoreFixture& fixture() { return fixture_; }

 private:
  DispatcherOptions options_;
  StoreFixture fixture_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::map<void*, uint64_t> tickets_;
};

// A cluster in which one worker runs one job.
class RunningJobTest : public ::testing::Test {
 protected:
  RunningJobTest() : job(cluster.Submit()) { cluster.RunOn(worker); }

  Cluster cluster;
  SimWorker worker{"w"};
  const std::string job;
};

}  // namespace thaw
