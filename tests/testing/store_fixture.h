// A job store in a directory of its own, on a clock that stands still.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/jobs/artifact_table.h"
#include "server/jobs/attempt_table.h"
#include "server/jobs/event_log.h"
#include "server/jobs/job_table.h"
#include "server/jobs/state_machine.h"
#include "server/jobs/store.h"
#include "tests/testing/fake_clock.h"
#include "tests/testing/temp_dir.h"

namespace thaw {

class StoreFixture {
 public:
  StoreFixture() { Reopen(); }

  StoreOptions Options() {
    StoreOptions options;
    options.data_dir = directory_.path();
    options.clock = &clock_;
    return options;
  }

  // As after a restart of the server.
  void Reopen() {
    store_.reset();
    auto store = Store::Open(Options());
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  // A spec whose artifacts AddArtifacts has made.
  static v1::JobSpec Spec() {
    v1::JobSpec spec;
    spec.set_base_model("model-1");
    spec.mutable_training()->set_dataset("dataset-1");
    return spec;
  }
  static NewJob Submission(const std::string& owner = "ann", const std::string& request_id = "") {
    return {owner, owner, request_id, Spec(), Spec()};
  }

  v1::Artifact AddArtifact(const std::string& id, v1::Artifact::Kind kind,
                           const std::string& owner = "ann",
                           v1::Artifact::State state = v1::Artifact::READY) {
    v1::Artifact artifact;
    artifact.set_id(id);
    artifact.set_kind(kind);
    artifact.set_owner(owner);
    artifact.set_state(state);
    auto inserted = store_->Write([&](Transaction& t) { return InsertArtifact(t, artifact); });
    EXPECT_TRUE(inserted.ok()) << inserted.status();
    return artifact;
  }
  void AddArtifacts(const std::string& owner = "ann") {
    AddArtifact("model-1", v1::Artifact::MODEL, owner);
    AddArtifact("dataset-1", v1::Artifact::DATASET, owner);
  }

  std::string Submit(const NewJob& job = Submission()) {
    auto created = store_->Write([&](Transaction& t) { return CreateJob(t, job); });
    EXPECT_TRUE(created.ok()) << created.status();
    return created.ok() ? created->id() : "";
  }
  v1::Job Get(const std::string& id) {
    auto job = store_->Read([&](Reader& r) { return GetJob(r, "", id); });
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? *job : v1::Job();
  }
  std::vector<v1::Event> Events(const std::string& id, int64_t after = 0) {
    std::vector<v1::Event> all;
    while (true) {
      auto page = store_->Read([&](Reader& r) { return EventsAfter(r, "", id, after, 100); });
      EXPECT_TRUE(page.ok()) << page.status();
      if (!page.ok() || page->empty()) return all;
      after = page->back().sequence();
      all.insert(all.end(), page->begin(), page->end());
    }
  }

  // Promises of every history: numbered 1, 2, 3 …; legal transitions; nothing after the terminal
  // event.
  void CheckHistory(const std::string& id) {
    int64_t sequence = 0;
    v1::Job::State state = v1::Job::STATE_UNSPECIFIED;
    for (const v1::Event& event : Events(id)) {
      ASSERT_EQ(event.sequence(), ++sequence) << id;
      ASSERT_FALSE(IsTerminal(state)) << id << ": event " << sequence << " follows the end";
      if (!event.has_state_change()) continue;
      ASSERT_EQ(event.state_change().from(), state) << id;
      ASSERT_TRUE(IsLegal(state, event.state_change().to()))
          << id << ": " << v1::Job::State_Name(state) << " to "
          << v1::Job::State_Name(event.state_change().to());
      state = event.state_change().to();
    }
    const v1::Job job = Get(id);
    EXPECT_EQ(job.state(), state) << id;
    EXPECT_EQ(job.last_sequence(), sequence) << id;
    EXPECT_EQ(job.done(), IsTerminal(state)) << id;
  }

  Store& store() { return *store_; }
  FakeClock& clock() { return clock_; }
  const std::string& directory() const { return directory_.path(); }
  void Close() { store_.reset(); }

 private:
  TempDir directory_;
  FakeClock clock_;
  std::unique_ptr<Store> store_;
};

}  // namespace thaw
