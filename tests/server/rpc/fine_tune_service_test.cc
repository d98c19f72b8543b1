// What users do to jobs, over the wire.
#include <set>
#include <thread>

#include "common/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/rpc/rpc_fixture.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;
using Stub = v1::FineTuneService::Stub;

class FineTuneServiceTest : public ::testing::Test, public RpcFixture {
 protected:
  template <typename Request>
  Request For(const std::string& id) {
    Request request;
    request.set_id(id);
    return request;
  }
};

TEST_F(FineTuneServiceTest, ShowsEveryDefault) {
  const v1::JobSpec spec = Spec("ann");
  const auto job = Submit("ann", spec);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->state(), v1::Job::QUEUED);
  EXPECT_EQ(job->owner(), "ann");
  EXPECT_EQ(job->queue_position(), 1);
  EXPECT_FALSE(job->state_reason().empty());
  EXPECT_EQ(job->resolved_spec().training().batch().examples_per_step(), 8);
  EXPECT_EQ(job->resolved_spec().training().seed(), 42);
  const auto read = Call(jobs(), &Stub::GetJob, "ann", For<v1::GetJobRequest>(job->id()));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->id(), job->id());
}

TEST_F(FineTuneServiceTest, NamesEveryWrongField) {
  v1::JobSpec spec = Spec("ann");
  spec.set_priority(1000);
  spec.mutable_training()->mutable_phases(0)->set_learning_rate(-1);
  spec.set_base_model("model-0000000000000000");
  const auto job = Submit("ann", spec);
  EXPECT_EQ(job.status().code(), absl::StatusCode::kInvalidArgument);
  std::set<std::string> fields;
  for (const FieldViolation& violation : ViolationsOf(job.status())) fields.insert(violation.field);
  EXPECT_THAT(fields, ::testing::IsSupersetOf({"spec.priority", "spec.base_model",
                                               "spec.training.phases[0].learning_rate"}));
}

TEST_F(FineTuneServiceTest, ValidatingStoresNothing) {
  v1::CreateJobRequest request;
  *request.mutable_spec() = Spec("ann");
  request.set_validate_only(true);
  const auto job = Call(jobs(), &Stub::CreateJob, "ann", request);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_TRUE(job->id().empty());
  EXPECT_TRUE(job->has_resolved_spec());
  EXPECT_EQ(Call(jobs(), &Stub::ListJobs, "ann", v1::ListJobsRequest())->jobs_size(), 0);
}

TEST_F(FineTuneServiceTest, ARetrySubmitsOnce) {
  v1::JobSpec spec = Spec("ann");
  std::vector<std::string> ids(16);
  std::vector<std::thread> threads;
  for (std::string& id : ids) {
    threads.emplace_back([&] {
      const auto job = Submit("ann", spec, "request-1");
      if (job.ok()) id = job->id();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(ids[0].empty());
  EXPECT_THAT(ids, ::testing::Each(ids[0]));
  spec.set_priority(1);
  EXPECT_EQ(Submit("ann", spec, "request-1").status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Submit("ann", spec, std::string(65, 'x')).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(FineTuneServiceTest, AcceptedJobsOutliveTheServer) {
  const v1::JobSpec spec = Spec("ann");
  std::set<std::string> accepted;
  for (int i = 0; i < 20; ++i) accepted.insert(Submit("ann", spec)->id());
  Stop();
  Start();
  std::set<std::string> found;
  v1::ListJobsRequest request;
  request.set_page_size(7);
  do {
    const auto page = Call(jobs(), &Stub::ListJobs, "ann", request);
    ASSERT_TRUE(page.ok()) << page.status();
    for (const v1::Job& job : page->jobs()) EXPECT_TRUE(found.insert(job.id()).second);
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  EXPECT_EQ(found, accepted);
}

TEST_F(FineTuneServiceTest, BoundsPages) {
  for (const int size : {-1, 1001}) {
    v1::ListJobsRequest request;
    request.set_page_size(size);
    EXPECT_EQ(Call(jobs(), &Stub::ListJobs, "ann", request).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(FineTuneServiceTest, CancelsPausesAndResumes) {
  const v1::JobSpec spec = Spec("ann");
  const std::string id = Submit("ann", spec)->id();
  EXPECT_EQ(Call(jobs(), &Stub::PauseJob, "ann", For<v1::PauseJobRequest>(id))->state(),
            v1::Job::PAUSED);
  EXPECT_EQ(Call(jobs(), &Stub::ResumeJob, "ann", For<v1::ResumeJobRequest>(id))->state(),
            v1::Job::QUEUED);
  EXPECT_EQ(Call(jobs(), &Stub::CancelJob, "ann", For<v1::CancelJobRequest>(id))->state(),
            v1::Job::CANCELLED);
  EXPECT_TRUE(Call(jobs(), &Stub::CancelJob, "ann", For<v1::CancelJobRequest>(id)).ok());
  EXPECT_EQ(Call(jobs(), &Stub::ResumeJob, "ann", For<v1::ResumeJobRequest>(id)).status().code(),
            absl::StatusCode::kFailedPrecondition);
  const auto events = Call(jobs(), &Stub::ListJobEvents, "ann", For<v1::ListJobEventsRequest>(id));
  ASSERT_TRUE(events.ok()) << events.status();
  for (int i = 0; i < events->events_size(); ++i) EXPECT_EQ(events->events(i).sequence(), i + 1);
}

TEST_F(FineTuneServiceTest, SteersWithinBounds) {
  v1::SteerJobRequest request;
  request.set_id(Submit("ann", Spec("ann"))->id());
  const auto steer = [&](const std::string& field, const std::string& who = "ann") {
    const auto job = Call(jobs(), &Stub::SteerJob, who, request);
    if (!field.empty()) {
      EXPECT_EQ(job.status().code(), absl::StatusCode::kInvalidArgument) << job.status();
      const auto violations = ViolationsOf(job.status());
      EXPECT_TRUE(!violations.empty() && violations[0].field == field) << job.status();
    }
    return job;
  };
  request.mutable_action()->set_checkpoint(true);
  steer("request_id");
  request.set_request_id(std::string(65, 'x'));
  steer("request_id");
  request.set_request_id("one");
  request.clear_action();
  steer("action");
  request.mutable_action()->set_scale_rate(5000);
  steer("action.scale_rate");
  request.mutable_action()->set_scale_rate(0.5);
  EXPECT_EQ(steer("", "bob").status().code(), absl::StatusCode::kNotFound);
  for (int i = 0; i < 2; ++i) {
    const auto job = steer("");
    ASSERT_TRUE(job.ok()) << job.status();
    ASSERT_EQ(job->steerings_size(), 1);
    EXPECT_EQ(job->steerings(0).action().scale_rate(), 0.5);
  }
  EXPECT_TRUE(steer("", "admin").ok());
}

TEST_F(FineTuneServiceTest, UpdatesOnlyWhatTheCallerHasSeen) {
  const auto job = Submit("ann", Spec("ann"));
  v1::UpdateJobRequest request;
  request.set_id(job->id());
  request.set_etag(job->etag());
  request.mutable_spec()->set_priority(7);
  (*request.mutable_spec()->mutable_labels())["team"] = "red";
  request.mutable_update_mask()->add_paths("priority");
  request.mutable_update_mask()->add_paths("labels");
  const auto updated = Call(jobs(), &Stub::UpdateJob, "ann", request);
  ASSERT_TRUE(updated.ok()) << updated.status();
  EXPECT_EQ(updated->spec().priority(), 7);
  EXPECT_EQ(updated->spec().labels().at("team"), "red");
  EXPECT_EQ(Call(jobs(), &Stub::UpdateJob, "ann", request).status().code(),
            absl::StatusCode::kAborted);
  request.clear_etag();
  request.mutable_spec()->set_priority(1000);
  EXPECT_EQ(Call(jobs(), &Stub::UpdateJob, "ann", request).status().code(),
            absl::StatusCode::kInvalidArgument);
  request.mutable_spec()->set_priority(1);
  request.mutable_update_mask()->add_paths("base_model");
  const auto refused = Call(jobs(), &Stub::UpdateJob, "ann", request);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(FineTuneServiceTest, ATrainingIsAModelOnceItHasACheckpoint) {
  const v1::JobSpec spec = Spec("ann");
  const auto training = Submit("ann", spec);
  ASSERT_TRUE(training.ok()) << training.status();
  ScriptedWorker worker(*this, "w1");
  const v1::Assignment assignment = worker.Take();
  ASSERT_TRUE(worker.Sync({Running(assignment)}).ok());
  v1::JobSpec prediction;
  prediction.mutable_prediction()->set_model(training->id());
  prediction.mutable_prediction()->mutable_texts()->add_values("t");
  prediction.mutable_prediction()->mutable_classify();
  const auto refused = [&](const std::string& who) {
    const auto violations = ViolationsOf(Submit(who, prediction).status());
    return violations.size() == 1 ? violations[0].field + " " + violations[0].description : "";
  };
  EXPECT_THAT(refused("ann"), HasSubstr("spec.prediction.model \"" + training->id() +
                                        "\" has no checkpoint yet; wait for the first one"));
  EXPECT_THAT(refused("bob"), HasSubstr("does not exist"));

  const FileContents files = {{"checkpoint.json", "{}"}};
  v1::CreateUploadRequest announce = Announce(v1::Artifact::CHECKPOINT, files);
  announce.set_attempt_id(assignment.attempt_id());
  const auto upload = artifacts().staging().Create("ann", announce);
  ASSERT_TRUE(upload.ok()) << upload.status();
  auto writer = artifacts().staging().StartWrite(upload->id(), "checkpoint.json", 0);
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->Append("{}").ok());
  ASSERT_TRUE((*writer)->Commit().ok());
  v1::FinishUploadRequest finish;
  finish.set_upload_id(upload->id());
  finish.mutable_checkpoint()->set_step(5);
  const auto checkpoint = artifacts().FinishUpload(finish);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();

  const auto job = Submit("ann", prediction);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->resolved_spec().prediction().model(), training->id());
  EXPECT_EQ(job->resolved_spec().prediction().checkpoint(), checkpoint->id());
  EXPECT_EQ(job->resolved_spec().prediction().weights(), v1::Prediction::BEST);
  EXPECT_THAT(refused("bob"), HasSubstr("does not exist"));
  const v1::Assignment given = worker.Take();
  EXPECT_EQ(given.model().id(), spec.base_model());
  EXPECT_EQ(given.checkpoint().id(), checkpoint->id());
  EXPECT_EQ(given.training_behind().labels_size(), 2);
  EXPECT_TRUE(given.training_behind().spec().training().has_text_classification());
}

class FullQueueTest : public ::testing::Test, public RpcFixture {
 protected:
  static RpcServerOptions ShortQueue() {
    RpcServerOptions options;
    options.max_queued_jobs = 3;
    return options;
  }
  FullQueueTest() : RpcFixture(ShortQueue()) {}
};

TEST_F(FullQueueTest, OverloadIsRefused) {
  const v1::JobSpec spec = Spec("ann");
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Submit("ann", spec, absl::StrCat(i)).ok());
  const absl::Status status = Submit("ann", spec).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "QUEUE_FULL");
  // A retry of what was accepted is still answered.
  EXPECT_TRUE(Submit("ann", spec, "0").ok());
}

TEST_F(FineTuneServiceTest, WhatTheServerDoesNotKnowIsBoundedToo) {
  v1::JobSpec spec = Spec("ann");
  spec.GetReflection()->MutableUnknownFields(&spec)->AddLengthDelimited(
      1000, std::string(300 << 10, 'x'));
  const auto large = Submit("ann", spec);
  EXPECT_EQ(large.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(large.status().message()), HasSubstr("besides its input"));

  const auto job = Submit("ann", Spec("ann"));
  ASSERT_TRUE(job.ok()) << job.status();
  auto update = For<v1::UpdateJobRequest>(job->id());
  for (int i = 0; i < 1000; ++i) update.mutable_update_mask()->add_paths("labels");
  const auto updated = Call(jobs(), &Stub::UpdateJob, "ann", update);
  EXPECT_EQ(updated.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(updated.status().message()), HasSubstr("update_mask"));
}

}  // namespace
}  // namespace thaw
