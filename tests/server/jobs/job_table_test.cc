#include "server/jobs/job_table.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gtest/gtest.h"
#include "tests/testing/store_fixture.h"

namespace thaw {
namespace {

using v1::Job;

class JobTable : public ::testing::Test {
 protected:
  JobTable() { fixture_.AddArtifacts(); }
  absl::StatusOr<Job> Create(const NewJob& job) {
    return fixture_.store().Write([&](Transaction& t) { return CreateJob(t, job); });
  }
  absl::StatusOr<Job> Update(const std::string& id, const std::string& etag,
                             const v1::JobSpec& values, const std::vector<std::string>& paths) {
    google::protobuf::FieldMask mask;
    for (const std::string& path : paths) mask.add_paths(path);
    return fixture_.store().Write(
        [&](Transaction& t) { return UpdateJob(t, "ann", id, etag, values, mask); });
  }
  absl::StatusOr<Page<Job>> List(const JobFilter& filter, int size, const std::string& token = "") {
    return fixture_.store().Read([&](Reader& r) { return ListJobs(r, filter, size, token); });
  }

  StoreFixture fixture_;
};

TEST_F(JobTable, ANewJobIsQueuedWithItsFirstEvent) {
  const auto job = Create(StoreFixture::Submission());
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->id().size(), 20u);
  EXPECT_EQ(job->owner(), "ann");
  EXPECT_EQ(job->state(), Job::QUEUED);
  EXPECT_EQ(job->last_sequence(), 1);
  EXPECT_FALSE(job->etag().empty());
  EXPECT_TRUE(job->has_create_time());
  EXPECT_EQ(job->SerializeAsString(), fixture_.Get(job->id()).SerializeAsString());
  fixture_.CheckHistory(job->id());
}

TEST_F(JobTable, TheSameRequestGivesTheSameJob) {
  const NewJob job = StoreFixture::Submission("ann", "r1");
  const std::string id = Create(job)->id();
  EXPECT_EQ(Create(job)->id(), id);
  fixture_.Reopen();
  EXPECT_EQ(Create(job)->id(), id);
  auto found =
      fixture_.store().Read([&](Reader& r) { return FindJobByRequest(r, "ann", "r1", job.spec); });
  EXPECT_EQ(found->id(), id);
}

TEST_F(JobTable, AnotherBodyUnderTheSameRequestIsRefused) {
  NewJob job = StoreFixture::Submission("ann", "r1");
  const std::string id = Create(job)->id();
  job.spec.set_priority(1);
  const auto refused = Create(job);
  ASSERT_TRUE(absl::IsAlreadyExists(refused.status()));
  EXPECT_NE(refused.status().message().find(id), std::string::npos) << refused.status();
}

TEST_F(JobTable, RequestsOfTwoOwnersDoNotMeet) {
  NewJob other = StoreFixture::Submission("bob", "r1");
  other.visible_owner = "";
  EXPECT_NE(Create(StoreFixture::Submission("ann", "r1"))->id(), Create(other)->id());
}

TEST_F(JobTable, LabelsInAnyOrderAreTheSameBody) {
  NewJob a = StoreFixture::Submission("ann", "r1");
  NewJob b = a;
  for (int i = 0; i < 20; ++i) (*a.spec.mutable_labels())[absl::StrCat("k", i)] = "v";
  for (int i = 19; i >= 0; --i) (*b.spec.mutable_labels())[absl::StrCat("k", i)] = "v";
  EXPECT_EQ(Create(a)->id(), Create(b)->id());
}

TEST_F(JobTable, ArtifactsMustBeThereVisibleFittingAndReady) {
  fixture_.AddArtifact("model-bob", v1::Artifact::MODEL, "bob");
  fixture_.AddArtifact("dataset-new", v1::Artifact::DATASET, "ann", v1::Artifact::VALIDATING);
  struct Case {
    std::string model, dataset, field, text;
  };
  const Case cases[] = {
      {"model-9", "dataset-1", "spec.base_model", "there is no artifact \"model-9\""},
      {"model-bob", "dataset-1", "spec.base_model", "there is no artifact \"model-bob\""},
      {"dataset-1", "dataset-1", "spec.base_model", "is a DATASET, not a MODEL"},
      {"model-1", "model-1", "spec.training.dataset", "is a MODEL, not a DATASET"},
      {"model-1", "dataset-new", "spec.training.dataset", "is VALIDATING"},
  };
  for (const Case& test : cases) {
    NewJob job = StoreFixture::Submission();
    job.resolved_spec.set_base_model(test.model);
    job.resolved_spec.mutable_training()->set_dataset(test.dataset);
    const auto refused = Create(job);
    ASSERT_TRUE(absl::IsInvalidArgument(refused.status())) << test.text;
    const auto violations = ViolationsOf(refused.status());
    ASSERT_EQ(violations.size(), 1u);
    EXPECT_EQ(violations[0].field, test.field);
    EXPECT_NE(violations[0].description.find(test.text), std::string::npos)
        << violations[0].description;
  }
  EXPECT_TRUE(List({}, 10)->items.empty()) << "a refused job left something behind";
}

TEST_F(JobTable, AForeignJobIsNotFound) {
  const std::string id = fixture_.Submit();
  auto& store = fixture_.store();
  EXPECT_TRUE(
      absl::IsNotFound(store.Read([&](Reader& r) { return GetJob(r, "bob", id); }).status()));
  for (auto* act : {&CancelJob, &PauseJob, &ResumeJob}) {
    EXPECT_TRUE(
        absl::IsNotFound(store.Write([&](Transaction& t) { return act(t, "bob", id); }).status()));
  }
  EXPECT_TRUE(absl::IsNotFound(
      store.Read([&](Reader& r) { return EventsAfter(r, "bob", id, 0, 1); }).status()));
  v1::QueryMetricsRequest request;
  request.set_id(id);
  EXPECT_TRUE(absl::IsNotFound(
      store.Read([&](Reader& r) { return QueryMetrics(r, "bob", request); }).status()));
  EXPECT_TRUE(List({.owner = "bob"}, 10)->items.empty());
  EXPECT_EQ(List({.owner = "ann"}, 10)->items.size(), 1u);
  EXPECT_EQ(List({}, 10)->items.size(), 1u);
}

TEST_F(JobTable, ListsPageNewestFirst) {
  std::vector<std::string> ids;
  for (int i = 0; i < 7; ++i) ids.push_back(fixture_.Submit());
  std::vector<std::string> seen;
  std::string token;
  int pages = 0;
  do {
    const auto page = List({}, 3, token);
    ASSERT_TRUE(page.ok()) << page.status();
    for (const Job& job : page->items) seen.push_back(job.id());
    token = page->next_page_token;
    ++pages;
    fixture_.Submit();  // what comes later does not disturb
  } while (!token.empty());
  std::reverse(ids.begin(), ids.end());
  EXPECT_EQ(seen, ids);
  EXPECT_EQ(pages, 3);
}

TEST_F(JobTable, ListsFilterByStateAndLabels) {
  NewJob labelled = StoreFixture::Submission();
  (*labelled.spec.mutable_labels())["team"] = "nlp";
  const std::string a = fixture_.Submit(labelled);
  const std::string b = fixture_.Submit();
  ASSERT_TRUE(fixture_.store().Write([&](Transaction& t) { return CancelJob(t, "", b); }).ok());
  EXPECT_EQ(List({.states = {Job::CANCELLED}}, 10)->items.at(0).id(), b);
  EXPECT_EQ(List({.labels = {{"team", "nlp"}}}, 10)->items.at(0).id(), a);
  EXPECT_TRUE(List({.labels = {{"team", "cv"}}}, 10)->items.empty());
  EXPECT_EQ(List({.labels = {{"team", "nlp"}}}, 10)->items.size(), 1u);
}

TEST_F(JobTable, APageTokenOfAnotherQuestionIsRefused) {
  for (int i = 0; i < 3; ++i) fixture_.Submit();
  const std::string token = List({}, 2)->next_page_token;
  for (const std::string& bad : {token, std::string("x"), std::string("9-"), std::string("-")}) {
    const auto refused = List({.states = {Job::QUEUED}}, 2, bad);
    EXPECT_TRUE(absl::IsInvalidArgument(refused.status())) << bad;
  }
}

TEST_F(JobTable, UpdateChangesWhatTheMaskNames) {
  const std::string id = fixture_.Submit();
  const std::string etag = fixture_.Get(id).etag();
  v1::JobSpec values;
  values.set_priority(7);
  values.set_display_name("ignored");
  (*values.mutable_labels())["a"] = "b";
  const auto job = Update(id, etag, values, {"priority", "labels"});
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->spec().priority(), 7);
  EXPECT_EQ(job->resolved_spec().priority(), 7);
  EXPECT_EQ(job->spec().labels().at("a"), "b");
  EXPECT_EQ(job->spec().display_name(), "");
  EXPECT_NE(job->etag(), etag);
  EXPECT_TRUE(absl::IsAborted(Update(id, etag, values, {"priority"}).status()));
  EXPECT_TRUE(Update(id, "", values, {"priority"}).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(Update(id, "", values, {}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Update(id, "", values, {"training"}).status()));
  EXPECT_EQ(fixture_.Events(id).back().job_updated().fields(0), "priority");
}

TEST_F(JobTable, NothingFollowsTheTerminalEventNotEvenAnUpdate) {
  const std::string id = fixture_.Submit();
  ASSERT_TRUE(fixture_.store().Write([&](Transaction& t) { return CancelJob(t, "", id); }).ok());
  v1::JobSpec values;
  (*values.mutable_labels())["a"] = "b";
  EXPECT_TRUE(Update(id, "", values, {"labels"}).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Update(id, "", values, {"priority"}).status()));
  fixture_.CheckHistory(id);
}

TEST_F(JobTable, TheEtagOutlivesReportsOfProgress) {
  const std::string id = fixture_.Submit();
  ASSERT_TRUE(fixture_.store()
                  .Write([&](Transaction& t) {
                    return BeginAttempt(t, id, std::string(32, 'a'), "w", v1::Resources::CPU);
                  })
                  .ok());
  v1::AttemptReport report;
  report.set_attempt_id(std::string(32, 'a'));
  report.set_state(v1::AttemptReport::RUNNING);
  auto apply = [&] {
    return fixture_.store().Write(
        [&](Transaction& t) { return ApplyReport(t, "w", std::string(32, '0'), 1, report); });
  };
  ASSERT_TRUE(apply().ok());
  const std::string etag = fixture_.Get(id).etag();
  report.mutable_progress()->set_step(5);
  ASSERT_TRUE(apply().ok());
  EXPECT_EQ(fixture_.Get(id).progress().step(), 5);
  EXPECT_EQ(fixture_.Get(id).etag(), etag);
}

}  // namespace
}  // namespace thaw
