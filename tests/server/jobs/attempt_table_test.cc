#include "server/jobs/attempt_table.h"

#include <functional>

#include "absl/strings/str_cat.h"
#include "common/base/id.h"
#include "common/base/status.h"
#include "common/spec/planned_training.h"
#include "gtest/gtest.h"
#include "tests/testing/store_fixture.h"

namespace thaw {
namespace {

using v1::Artifact;
using v1::Job;

class AttemptTable : public ::testing::Test {
 protected:
  AttemptTable() {
    fixture_.AddArtifacts();
    job_ = fixture_.Submit();
  }
  std::string Begin() {
    const std::string id = RandomId();
    auto assignment = fixture_.store().Write(
        [&](Transaction& t) { return BeginAttempt(t, job_, id, "w", v1::Resources::CPU); });
    EXPECT_TRUE(assignment.ok()) << assignment.status();
    return id;
  }
  absl::StatusOr<AttemptRecord> Report(
      const std::string& id, v1::AttemptReport report,
      v1::AttemptReport::State state = v1::AttemptReport::RUNNING) {
    report.set_attempt_id(id);
    report.set_state(state);
    return fixture_.store().Write(
        [&](Transaction& t) { return ApplyReport(t, "w", std::string(32, '0'), 1, report); });
  }
  absl::Status Checkpoint(const std::string& id, const std::string& name, int64_t step,
                          bool best = false) {
    NewCheckpoint checkpoint;
    checkpoint.artifact.set_id(name);
    checkpoint.artifact.set_size_bytes(10);
    checkpoint.step = step;
    checkpoint.best = best;
    return fixture_.store()
        .Write([&](Transaction& t) { return CommitCheckpoint(t, id, checkpoint); })
        .status();
  }
  absl::StatusOr<Artifact> Publish(const std::string& id, const std::string& name) {
    Artifact artifact;
    artifact.set_id(name);
    artifact.set_owner("somebody");  // not for the worker to say
    return fixture_.store().Write([&](Transaction& t) {
      return CommitResult(t, id, artifact, {{"accuracy", 0.5}});
    });
  }
  absl::Status Lose(const std::string& id) {
    return fixture_.store().Write([&](Transaction& t) { return LoseAttempt(t, id, "gone"); });
  }
  bool HasArtifact(const std::string& id) {
    return fixture_.store().Read([&](Reader& r) { return GetArtifact(r, "", id); }).ok();
  }

  StoreFixture fixture_;
  std::string job_;
};

TEST_F(AttemptTable, AnAssignmentSaysWhoseJobItIsAndSinceWhen) {
  const auto assignment = fixture_.store().Write(
      [&](Transaction& t) { return BeginAttempt(t, job_, RandomId(), "w", v1::Resources::CPU); });
  ASSERT_TRUE(assignment.ok()) << assignment.status();
  const Job job = fixture_.Get(job_);
  EXPECT_FALSE(assignment->owner().empty());
  EXPECT_EQ(assignment->owner(), job.owner());
  EXPECT_GT(assignment->create_time().seconds(), 0);
  EXPECT_EQ(assignment->create_time().SerializeAsString(), job.create_time().SerializeAsString());
}

TEST_F(AttemptTable, APlanIsGivenTheInputsOfItsTraining) {
  NewJob plan = StoreFixture::Submission();
  plan.spec.mutable_training()->set_tokenizer("model-1");
  plan.spec.mutable_training()->set_validation_dataset("dataset-1");
  plan.spec = WithPlan(plan.spec);
  plan.resolved_spec = plan.spec;
  const auto job = fixture_.store().Write([&](Transaction& t) { return CreateJob(t, plan); });
  ASSERT_TRUE(job.ok()) << job.status();
  const auto assignment = fixture_.store().Write([&](Transaction& t) {
    return BeginAttempt(t, job->id(), RandomId(), "w", v1::Resources::CPU);
  });
  ASSERT_TRUE(assignment.ok()) << assignment.status();
  EXPECT_TRUE(assignment->spec().has_plan());
  EXPECT_EQ(assignment->model().id(), "model-1");
  EXPECT_EQ(assignment->tokenizer().id(), "model-1");
  EXPECT_EQ(assignment->dataset().id(), "dataset-1");
  EXPECT_EQ(assignment->validation_dataset().id(), "dataset-1");
}

TEST_F(AttemptTable, OneLiveAttemptAtATime) {
  Begin();
  auto second = fixture_.store().Write(
      [&](Transaction& t) { return BeginAttempt(t, job_, RandomId(), "v", v1::Resources::CPU); });
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status()));
}

TEST_F(AttemptTable, TheResultEndsTheJob) {
  const std::string id = Begin();
  ASSERT_TRUE(Report(id, {}).ok());
  const auto result = Publish(id, "result-1");
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->owner(), "ann");
  EXPECT_EQ(result->job(), job_);
  EXPECT_EQ(result->kind(), Artifact::RESULT);
  EXPECT_EQ(result->state(), Artifact::READY);
  const Job job = fixture_.Get(job_);
  EXPECT_EQ(job.state(), Job::SUCCEEDED);
  EXPECT_EQ(job.result(), "result-1");
  EXPECT_EQ(job.result_metrics().at("accuracy"), 0.5);
  EXPECT_TRUE(job.done());
  EXPECT_TRUE(job.has_start_time() && job.has_end_time());
  EXPECT_EQ(fixture_.Events(job_).back().state_change().result(), "result-1");
  EXPECT_TRUE(Publish(id, "result-1").ok()) << "repeating it changes nothing";
  EXPECT_EQ(ReasonOf(Publish(id, "result-2").status()), "ATTEMPT_STALE");
  EXPECT_FALSE(HasArtifact("result-2"));
  fixture_.CheckHistory(job_);
}

TEST_F(AttemptTable, AStaleAttemptIsFencedEverywhere) {
  const std::string stale = Begin();
  ASSERT_TRUE(Lose(stale).ok());
  Begin();
  const int64_t before = fixture_.store().Stats().fenced_writes;
  const std::vector<absl::Status> refused = {
      Report(stale, {}).status(), Checkpoint(stale, "checkpoint-1", 1),
      Publish(stale, "result-1").status(), Lose(stale),
      fixture_.store().Read([&](Reader& r) { return GetLiveAttempt(r, stale); }).status()};
  for (const absl::Status& status : refused) EXPECT_EQ(ReasonOf(status), "ATTEMPT_STALE");
  EXPECT_EQ(fixture_.store().Stats().fenced_writes - before, 5);
  EXPECT_FALSE(HasArtifact("checkpoint-1"));
  EXPECT_FALSE(HasArtifact("result-1"));
}

TEST_F(AttemptTable, AfterCancellingNothingIsPublished) {
  const std::string id = Begin();
  ASSERT_TRUE(fixture_.store().Write([&](Transaction& t) { return CancelJob(t, "", job_); }).ok());
  EXPECT_EQ(ReasonOf(Checkpoint(id, "checkpoint-1", 1)), "JOB_CANCELLED");
  EXPECT_EQ(ReasonOf(Publish(id, "result-1").status()), "JOB_CANCELLED");
  EXPECT_FALSE(HasArtifact("result-1"));
}

TEST_F(AttemptTable, TheNewestTwoCheckpointsAndTheBestStay) {
  std::vector<std::string> removed;
  Subscription observer =
      fixture_.store().ObserveRemovedArtifacts([&](const std::vector<std::string>& ids) {
        removed.insert(removed.end(), ids.begin(), ids.end());
      });
  const std::string id = Begin();
  for (int i = 1; i <= 6; ++i) {
    ASSERT_TRUE(Checkpoint(id, absl::StrCat("checkpoint-", i), i * 10, i == 1 || i == 3).ok());
  }
  EXPECT_EQ(removed, (std::vector<std::string>{"checkpoint-1", "checkpoint-2", "checkpoint-4"}));
  for (int i : {3, 5, 6}) EXPECT_TRUE(HasArtifact(absl::StrCat("checkpoint-", i)));
  removed.clear();
  ASSERT_TRUE(Publish(id, "result-1").ok());
  EXPECT_EQ(removed.size(), 3u) << "an ended job needs none";
  EXPECT_TRUE(HasArtifact("result-1"));
}

TEST_F(AttemptTable, APredictionKeepsTheCheckpointThatItUses) {
  const std::string id = Begin();
  ASSERT_TRUE(Checkpoint(id, "checkpoint-1", 10).ok());
  NewJob prediction = fixture_.Submission();
  prediction.spec.Clear();
  prediction.spec.mutable_prediction()->set_model(job_);
  prediction.spec.mutable_prediction()->mutable_texts()->add_values("t");
  prediction.resolved_spec = prediction.spec;
  prediction.resolved_spec.mutable_prediction()->set_checkpoint("checkpoint-1");
  const std::string user = fixture_.Submit(prediction);
  for (int i = 2; i <= 5; ++i) {
    ASSERT_TRUE(Checkpoint(id, absl::StrCat("checkpoint-", i), i * 10).ok());
  }
  EXPECT_TRUE(HasArtifact("checkpoint-1"));
  EXPECT_FALSE(HasArtifact("checkpoint-2"));
  // The training ends, and with it all that nobody uses.
  ASSERT_TRUE(Publish(id, "result-1").ok());
  EXPECT_TRUE(HasArtifact("checkpoint-1"));
  EXPECT_FALSE(HasArtifact("checkpoint-5"));

  const std::string attempt = RandomId();
  const auto begun = fixture_.store().Write(
      [&](Transaction& t) { return BeginAttempt(t, user, attempt, "w", v1::Resources::CPU); });
  ASSERT_TRUE(begun.ok()) << begun.status();
  EXPECT_EQ(begun->model().id(), "model-1");
  EXPECT_EQ(begun->checkpoint().id(), "checkpoint-1");
  EXPECT_EQ(begun->training_behind().spec().base_model(), "model-1");
  EXPECT_FALSE(begun->has_dataset());
  EXPECT_EQ(begun->spec().prediction().model(), job_);

  std::vector<std::string> removed;
  Subscription observer =
      fixture_.store().ObserveRemovedArtifacts([&](const std::vector<std::string>& ids) {
        removed.insert(removed.end(), ids.begin(), ids.end());
      });
  ASSERT_TRUE(
      fixture_.store().Write([&](Transaction& t) { return CancelJob(t, "ann", user); }).ok());
  ASSERT_TRUE(
      fixture_.store().Write([&](Transaction& t) { return LoseAttempt(t, attempt, "x"); }).ok());
  EXPECT_EQ(fixture_.Get(user).state(), Job::CANCELLED);
  EXPECT_EQ(removed, std::vector<std::string>{"checkpoint-1"});
}

// Paused ones would hold every checkpoint of a long training.
TEST_F(AttemptTable, PredictionsHoldEightCheckpointsOfATraining) {
  const std::string id = Begin();
  std::vector<std::string> users;
  const auto submit = [&](int checkpoint) {
    NewJob prediction = fixture_.Submission();
    prediction.spec.Clear();
    prediction.spec.mutable_prediction()->set_model(job_);
    prediction.resolved_spec = prediction.spec;
    prediction.resolved_spec.mutable_prediction()->set_checkpoint(
        absl::StrCat("checkpoint-", checkpoint));
    const auto created =
        fixture_.store().Write([&](Transaction& t) { return CreateJob(t, prediction); });
    if (created.ok()) users.push_back(created->id());
    return created.status();
  };
  for (int i = 1; i <= 9; ++i) {
    ASSERT_TRUE(Checkpoint(id, absl::StrCat("checkpoint-", i), i * 10).ok());
    const absl::Status status = submit(i);
    EXPECT_EQ(status.ok(), i <= 8) << status;
    EXPECT_EQ(ReasonOf(status), i <= 8 ? "" : "CHECKPOINTS_HELD");
  }
  EXPECT_TRUE(submit(8).ok()) << "it is held already";
  ASSERT_TRUE(
      fixture_.store().Write([&](Transaction& t) { return CancelJob(t, "ann", users[0]); }).ok());
  EXPECT_TRUE(submit(9).ok());
}

TEST_F(AttemptTable, ACheckpointThatIsGoneIsResolvedAgain) {
  const std::string id = Begin();
  NewJob prediction = fixture_.Submission();
  prediction.spec.Clear();
  prediction.spec.mutable_prediction()->set_model(job_);
  prediction.resolved_spec = prediction.spec;
  prediction.resolved_spec.mutable_prediction()->set_checkpoint("checkpoint-1");
  const auto submit = [&] {
    return fixture_.store()
        .Write([&](Transaction& t) { return CreateJob(t, prediction); })
        .status();
  };
  EXPECT_EQ(ReasonOf(submit()), "CHECKPOINT_GONE") << "before it is there";
  ASSERT_TRUE(Checkpoint(id, "checkpoint-1", 10).ok());
  prediction.visible_owner = "bob";
  EXPECT_TRUE(absl::IsNotFound(submit())) << "the training of another";
  prediction.visible_owner = "ann";
  ASSERT_TRUE(Publish(id, "result-1").ok());
  EXPECT_EQ(ReasonOf(submit()), "CHECKPOINT_GONE") << "after the training's end";
}

TEST_F(AttemptTable, ACheckpointHasItsEventAndIsGoneOnFrom) {
  const std::string first = Begin();
  ASSERT_TRUE(Checkpoint(first, "checkpoint-1", 40).ok());
  ASSERT_TRUE(Checkpoint(first, "checkpoint-1", 40).ok());  // again: nothing
  EXPECT_EQ(fixture_.Get(job_).state(), Job::RUNNING);
  int committed = 0;
  for (const v1::Event& event : fixture_.Events(job_))
    committed += event.has_checkpoint_committed();
  EXPECT_EQ(committed, 1);
  ASSERT_TRUE(Lose(first).ok());
  const std::string second = Begin();
  auto assignment = fixture_.store().Read([&](Reader& r) { return BuildAssignment(r, second); });
  EXPECT_EQ(assignment->checkpoint().id(), "checkpoint-1");
  EXPECT_EQ(assignment->attempt(), 2);
  EXPECT_EQ(fixture_.Events(job_).back().rolled_back().to_step(), 40);
  fixture_.CheckHistory(job_);
}

TEST_F(AttemptTable, EventsAreAppendedOnceAndOnlyTheAllowedKinds) {
  const std::string id = Begin();
  v1::AttemptReport report;
  auto add = [&](int64_t sequence) -> v1::Event& {
    v1::WorkerEvent& event = *report.add_events();
    event.set_sequence(sequence);
    return *event.mutable_event();
  };
  add(1).mutable_log_line()->set_text("a");
  add(2).mutable_state_change()->set_to(Job::SUCCEEDED);  // a lie
  add(3).mutable_metric_points()->add_points()->set_step(1);
  add(4).mutable_metric_points()->add_points()->set_step(2);
  add(5).mutable_phase_start()->set_phase(1);
  add(6).mutable_metric_points()->add_points()->set_step(3);
  add(7).mutable_generated_text()->set_text("word");
  for (int i = 0; i < 2; ++i) {
    const auto attempt = Report(id, report);
    ASSERT_TRUE(attempt.ok());
    EXPECT_EQ(attempt->acknowledged, 7);
    EXPECT_EQ(attempt->job_state, Job::RUNNING);
  }
  std::string kinds;
  for (const v1::Event& event : fixture_.Events(job_)) {
    if (event.has_log_line()) kinds += "l";
    if (event.has_metric_points()) absl::StrAppend(&kinds, event.metric_points().points_size());
    if (event.has_phase_start()) kinds += "p";
    if (event.has_generated_text()) kinds += "g";
    EXPECT_NE(event.state_change().to(), Job::SUCCEEDED);
  }
  EXPECT_EQ(kinds, "l2p1g") << "points that follow each other share an event";
  fixture_.CheckHistory(job_);
}

TEST_F(AttemptTable, TheEndWaitsForTheEventsBeforeIt) {
  const std::string id = Begin();
  v1::AttemptReport report;
  report.add_events()->set_sequence(2);  // 1 has not arrived
  report.mutable_end()->set_outcome(v1::AttemptEnd::FAILED);
  ASSERT_TRUE(Report(id, report, v1::AttemptReport::ENDED).ok());
  EXPECT_EQ(fixture_.Get(job_).state(), Job::STARTING);
  report.mutable_events(0)->set_sequence(1);
  report.add_events()->set_sequence(2);
  ASSERT_TRUE(Report(id, report, v1::AttemptReport::ENDED).ok());
  EXPECT_EQ(fixture_.Get(job_).state(), Job::FAILED);
}

TEST_F(AttemptTable, OnlyALostAttemptOfAQueuedJobComesBack) {
  auto reattach = [&](const std::string& id, const std::string& worker = "w") {
    auto back =
        fixture_.store().Write([&](Transaction& t) { return ReattachAttempt(t, worker, id); });
    EXPECT_TRUE(back.ok()) << back.status();
    return back.ok() && *back;
  };
  EXPECT_FALSE(reattach("unknown"));
  const std::string first = Begin();
  EXPECT_FALSE(reattach(first)) << "it is live";
  ASSERT_TRUE(Lose(first).ok());
  EXPECT_FALSE(reattach(first, "thief"));
  EXPECT_TRUE(reattach(first));
  ASSERT_TRUE(Report(first, {}).ok());
  ASSERT_TRUE(Lose(first).ok());
  const std::string second = Begin();
  EXPECT_FALSE(reattach(first)) << "it was replaced";
  ASSERT_TRUE(Lose(second).ok());
  EXPECT_FALSE(reattach(first)) << "only the latest";
  EXPECT_TRUE(reattach(second));
  fixture_.CheckHistory(job_);
}

TEST_F(AttemptTable, LiveAttemptsSurviveARestart) {
  const std::string id = Begin();
  ASSERT_TRUE(Report(id, {}).ok());
  fixture_.Reopen();
  auto attempts = fixture_.store().Read([](Reader& r) { return LiveAttempts(r); });
  ASSERT_EQ(attempts->size(), 1u);
  EXPECT_EQ((*attempts)[0].id, id);
  EXPECT_EQ((*attempts)[0].job, job_);
  EXPECT_EQ((*attempts)[0].state, AttemptState::kAccepted);
  EXPECT_EQ((*attempts)[0].accepted_number, 1);
}

}  // namespace
}  // namespace thaw
