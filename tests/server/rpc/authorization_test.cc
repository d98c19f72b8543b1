// Walks every method of every service: without a credential, with a wrong one, with one of the
// wrong role, with another owner's, with the right one.
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "gtest/gtest.h"
#include "server/rpc/authorizer.h"
#include "tests/server/rpc/rpc_fixture.h"

namespace thaw {
namespace {

std::vector<const google::protobuf::MethodDescriptor*> AllMethods() {
  std::vector<const google::protobuf::MethodDescriptor*> methods;
  for (const auto* file :
       {v1::CreateJobRequest::descriptor()->file(), v1::CreateUploadRequest::descriptor()->file(),
        v1::SyncRequest::descriptor()->file()}) {
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        methods.push_back(file->service(s)->method(m));
      }
    }
  }
  return methods;
}

class AuthorizationTest : public ::testing::Test, public RpcFixture {
 protected:
  AuthorizationTest() {
    const v1::JobSpec spec = Spec("ann");
    job_ = Submit("ann", spec)->id();
    model_ = spec.base_model();
    dataset_ = spec.training().dataset();
    upload_ = Call(files(), &v1::ArtifactService::Stub::CreateUpload, "ann",
                   Announce(v1::Artifact::DATASET, {{"data.jsonl", "x"}}))
                  ->id();
  }

  // The first message of a call of `method` that is about ann's things, as bytes.
  std::string Request(const std::string& method) {
    const std::map<std::string, std::string> ids = {
        {"GetJob", job_},           {"CancelJob", job_},     {"PauseJob", job_},
        {"ResumeJob", job_},        {"UpdateJob", job_},     {"SteerJob", job_},
        {"WatchJob", job_},         {"ListJobEvents", job_}, {"ReadJobLog", job_},
        {"QueryMetrics", job_},     {"GetArtifact", model_}, {"Read", model_},
        {"DeleteArtifact", model_}, {"Write", upload_},      {"QueryWrite", upload_},
        {"FinishUpload", upload_},  {"CreateJob", ""},       {"ListJobs", ""},
        {"CreateUpload", ""},       {"ListArtifacts", ""},   {"Sync", ""},
        {"ListWorkers", ""},        {"DrainWorker", "gone"}, {"GetDatasetReport", dataset_}};
    const auto found = ids.find(method);
    if (found == ids.end()) {
      ADD_FAILURE() << method << " has no request in this test";
      return "";
    }
    // Field 1 is the id in all of them.
    v1::GetJobRequest request;
    request.set_id(found->second);
    return request.SerializeAsString();
  }

  absl::Status CallRaw(const google::protobuf::MethodDescriptor* method, const std::string& token,
                       bool* answered) {
    std::optional<std::string> answer;
    const absl::Status status =
        RpcFixture::CallRaw(absl::StrCat("/", method->service()->full_name(), "/", method->name()),
                            Request(method->name()), token, &answer);
    *answered = answer.has_value();
    return status;
  }

  std::string job_, model_, dataset_, upload_;
};

TEST_F(AuthorizationTest, EveryMethodHasARule) {
  std::vector<std::string> methods;
  for (const auto* method : AllMethods()) methods.push_back(method->name());
  EXPECT_THAT(Authorizer::Rpcs(), ::testing::UnorderedElementsAreArray(methods));
}

TEST_F(AuthorizationTest, NobodyComesInWithoutAToken) {
  for (const auto* method : AllMethods()) {
    for (const std::string& token : {std::string(), RandomId(), std::string(5000, 'x')}) {
      bool answered = false;
      const absl::Status status = CallRaw(method, token, &answered);
      EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << method->name() << status;
      EXPECT_FALSE(answered) << method->name();
    }
  }
}

TEST_F(AuthorizationTest, NobodyDoesAnotherRolesPart) {
  for (const auto* method : AllMethods()) {
    const bool of_workers = method->name() == "Sync";
    const bool of_admins = method->name() == "ListWorkers" || method->name() == "DrainWorker";
    for (const std::string who : {"ann", "worker", "admin"}) {
      const bool allowed = of_workers  ? who == "worker"
                           : of_admins ? who == "admin"
                                       : who != "worker";
      bool answered = false;
      const absl::Status status = CallRaw(method, token(who), &answered);
      const bool refused = status.code() == absl::StatusCode::kPermissionDenied ||
                           status.code() == absl::StatusCode::kUnauthenticated;
      EXPECT_EQ(refused, !allowed) << method->name() << " as " << who << ": " << status;
      EXPECT_FALSE(refused && answered) << method->name() << " as " << who;
    }
  }
}

TEST_F(AuthorizationTest, AForeignThingIsNotThere) {
  for (const auto* method : AllMethods()) {
    v1::GetJobRequest request;
    request.ParseFromString(Request(method->name()));
    if (request.id().empty() || method->service()->name() == "WorkerService") continue;
    bool answered = false;
    const absl::Status status = CallRaw(method, token("bob"), &answered);
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << method->name() << ": " << status;
    EXPECT_FALSE(answered) << method->name();
  }
}

TEST_F(AuthorizationTest, ListsShowOnlyOnesOwn) {
  ASSERT_TRUE(Submit("bob", Spec("bob")).ok());
  v1::ListJobsRequest jobs_request;
  jobs_request.set_owner("ann");
  for (const auto& [who, count] : std::map<std::string, int>{{"ann", 1}, {"bob", 1}}) {
    const auto listed = Call(jobs(), &v1::FineTuneService::Stub::ListJobs, who, jobs_request);
    ASSERT_TRUE(listed.ok()) << listed.status();
    ASSERT_EQ(listed->jobs_size(), count) << who;
    EXPECT_EQ(listed->jobs(0).owner(), who);
    const auto artifacts =
        Call(files(), &v1::ArtifactService::Stub::ListArtifacts, who, v1::ListArtifactsRequest());
    ASSERT_TRUE(artifacts.ok());
    for (const v1::Artifact& artifact : artifacts->artifacts()) EXPECT_EQ(artifact.owner(), who);
  }
  EXPECT_EQ(Call(jobs(), &v1::FineTuneService::Stub::ListJobs, "admin", v1::ListJobsRequest())
                ->jobs_size(),
            2);
}

TEST_F(AuthorizationTest, AJobMayNotNameForeignArtifacts) {
  v1::JobSpec spec = Spec("bob");
  spec.set_base_model(model_);
  EXPECT_EQ(Submit("bob", spec).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(AuthorizationTest, ATokenizerIsAnInputLikeAnyOther) {
  const auto mine = Publish("ann", v1::Artifact::MODEL, TinyModel());
  const auto foreign = Publish("bob", v1::Artifact::MODEL, TinyModel());
  v1::JobSpec spec = Spec("ann");
  spec.set_priority(10);
  spec.mutable_training()->set_tokenizer(foreign->id());
  EXPECT_EQ(Submit("ann", spec).status().code(), absl::StatusCode::kInvalidArgument);
  spec.mutable_training()->set_tokenizer(mine->id());
  const auto job = Submit("ann", spec);
  ASSERT_TRUE(job.ok()) << job.status();
  ScriptedWorker worker(*this, "worker-1");
  const v1::Assignment assignment = worker.Take(job->id());
  EXPECT_EQ(assignment.tokenizer().id(), mine->id());
  v1::GetArtifactRequest request;
  request.set_id(mine->id());
  EXPECT_TRUE(Call(files(), &v1::ArtifactService::Stub::GetArtifact, "worker", request,
                   assignment.attempt_id())
                  .ok());
}

TEST_F(AuthorizationTest, AWorkerReadsOnlyInputsOfItsLiveAttempts) {
  const auto foreign = Publish("bob", v1::Artifact::MODEL, TinyModel());
  ScriptedWorker worker(*this, "worker-1");
  const v1::Assignment assignment = worker.Take();
  ASSERT_EQ(assignment.job(), job_);
  const auto get = [&](const std::string& id, const std::string& attempt) {
    v1::GetArtifactRequest request;
    request.set_id(id);
    return Call(files(), &v1::ArtifactService::Stub::GetArtifact, "worker", request, attempt)
        .status()
        .code();
  };
  EXPECT_EQ(get(model_, assignment.attempt_id()), absl::StatusCode::kOk);
  EXPECT_EQ(get(dataset_, assignment.attempt_id()), absl::StatusCode::kOk);
  EXPECT_EQ(get(foreign->id(), assignment.attempt_id()), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(get(model_, ""), absl::StatusCode::kPermissionDenied);
  EXPECT_NE(get(model_, RandomId()), absl::StatusCode::kOk);

  auto announced = Announce(v1::Artifact::CHECKPOINT, {{"state", "x"}});
  announced.set_attempt_id(assignment.attempt_id());
  const auto create = [&](const std::string& who, const std::string& attempt) {
    return Call(files(), &v1::ArtifactService::Stub::CreateUpload, who, announced, attempt);
  };
  EXPECT_EQ(create("ann", "").status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(create("worker", "").status().code(), absl::StatusCode::kPermissionDenied);
  const auto upload = create("worker", assignment.attempt_id());
  ASSERT_TRUE(upload.ok()) << upload.status();
  v1::QueryWriteRequest query;
  query.set_upload_id(upload->id());
  for (const auto& [who, attempt] :
       std::map<std::string, std::string>{{"ann", ""}, {"worker", ""}}) {
    EXPECT_EQ(
        Call(files(), &v1::ArtifactService::Stub::QueryWrite, who, query, attempt).status().code(),
        absl::StatusCode::kPermissionDenied);
  }
  query.set_upload_id(upload_);
  EXPECT_EQ(Call(files(), &v1::ArtifactService::Stub::QueryWrite, "worker", query,
                 assignment.attempt_id())
                .status()
                .code(),
            absl::StatusCode::kPermissionDenied);

  ASSERT_TRUE(worker.Sync({Ended(assignment, v1::AttemptEnd::FAILED)}).ok());
  EXPECT_NE(get(model_, assignment.attempt_id()), absl::StatusCode::kOk);
}

}  // namespace
}  // namespace thaw
