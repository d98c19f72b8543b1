#include "server/artifacts/artifact_store.h"

#include <unistd.h>

#include <fstream>
#include <thread>
#include <vector>

#include "common/base/files.h"
#include "common/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/artifacts/based_model.h"
#include "server/artifacts/dataset_check.h"
#include "tests/server/artifacts/artifact_fixture.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

class ArtifactStoreTest : public ::testing::Test, public ArtifactFixture {
 protected:
  v1::Artifact Publish(v1::Artifact::Kind kind, const FileContents& files) {
    const auto artifact = Finish(Upload(kind, files));
    EXPECT_TRUE(artifact.ok()) << artifact.status();
    return artifact.ok() ? *artifact : v1::Artifact();
  }
  std::string ModelDirectory(const std::string& id) { return root() + "/models/" + id; }
  std::string Content(const OpenArtifactFile& file) {
    std::string bytes(static_cast<size_t>(file.size), '\0');
    EXPECT_EQ(pread(file.fd.get(), bytes.data(), bytes.size(), 0),
              static_cast<ssize_t>(bytes.size()));
    return bytes;
  }
  absl::Status Checked(const std::string& owner, const v1::CreateUploadRequest& request) {
    return store().Read([&](Reader& r) { return CheckUploadBase(r, owner, request); });
  }
  // A job whose attempt runs, so that it may publish; gives the attempt's id.
  std::string BeginAttempt() {
    AddArtifacts();
    const std::string job = Submit();
    const auto begun = store().Write([&](Transaction& t) {
      return thaw::BeginAttempt(t, job, "attempt-1", "worker-1", v1::Resources::CPU);
    });
    EXPECT_TRUE(begun.ok()) << begun.status();
    v1::AttemptReport report;
    report.set_job(job);
    report.set_attempt_id("attempt-1");
    report.set_state(v1::AttemptReport::RUNNING);
    const auto accepted = store().Write(
        [&](Transaction& t) { return ApplyReport(t, "worker-1", "incarnation", 1, report); });
    EXPECT_TRUE(accepted.ok()) << accepted.status();
    return "attempt-1";
  }
  std::string UploadOf(v1::Artifact::Kind kind, const std::string& attempt) {
    auto request = Announce(kind, {{"state.bin2", "weights"}});
    request.set_attempt_id(attempt);
    return Upload(request, {{"state.bin2", "weights"}});
  }
  absl::StatusOr<v1::Artifact> FinishCheckpoint(const std::string& upload) {
    v1::FinishUploadRequest request;
    request.set_upload_id(upload);
    request.mutable_checkpoint()->set_step(10);
    return artifacts().FinishUpload(request);
  }
};

TEST_F(ArtifactStoreTest, PublishesAModel) {
  const v1::Artifact model = Publish(v1::Artifact::MODEL, TinyModel());
  EXPECT_EQ(model.state(), v1::Artifact::READY);
  EXPECT_EQ(model.owner(), "ann");
  EXPECT_EQ(model.model().model_type(), "bert");
  EXPECT_EQ(model.model().blocks(), 2);
  EXPECT_EQ(model.model().parameters(), 6);
  EXPECT_EQ(model.files_size(), 3);
  EXPECT_TRUE(Exists(ModelDirectory(model.id()) + "/manifest.json"));
  const auto row = Row(model.id());
  ASSERT_TRUE(row.ok()) << row.status();
  EXPECT_EQ(row->digest(), model.digest());
  for (const auto& [path, bytes] : TinyModel()) {
    const auto file = artifacts().OpenFile(model, path);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(Content(*file), bytes);
  }
}

// What builds on a model keeps it from being deleted, and counts its numbers.
TEST_F(ArtifactStoreTest, AnAdapterBuildsOnItsModel) {
  const v1::Artifact base = Publish(v1::Artifact::MODEL, TinyModel());
  EXPECT_EQ(base.form(), v1::Artifact::FULL);
  const FileContents files = {{"adapter_config.json", R"({"peft_type":"LORA"})"},
                              {"adapter_model.safetensors", TinySafetensors()}};
  auto request = Announce(v1::Artifact::MODEL, files);
  request.set_base_model(base.id());
  EXPECT_TRUE(Checked("ann", request).ok()) << Checked("ann", request);
  const auto adapter = Finish(Upload(request, files));
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ(adapter->form(), v1::Artifact::ADAPTER);
  EXPECT_EQ(adapter->base_model(), base.id());
  EXPECT_EQ(adapter->model().model_type(), "bert");
  EXPECT_EQ(adapter->model().parameters(), 12);

  const auto remove = [&](const std::string& id) {
    return store().Write([&](Transaction& t) { return DeleteArtifact(t, "ann", id); });
  };
  EXPECT_THAT(remove(base.id()).ToString(), HasSubstr(adapter->id() + " builds on " + base.id()));
  // Nobody builds on somebody else's model, or on what builds on another.
  EXPECT_THAT(Checked("bob", request).ToString(), HasSubstr("does not exist"));
  request.set_base_model(adapter->id());
  EXPECT_THAT(Checked("ann", request).ToString(), HasSubstr("builds on " + base.id() + " itself"));
  EXPECT_TRUE(remove(adapter->id()).ok());
  EXPECT_TRUE(remove(base.id()).ok());
  request.set_base_model(base.id());
  EXPECT_THAT(Finish(Upload(request, files)).status().ToString(), HasSubstr("no artifact"));
}

// Prompts and prefixes take positions of their base; our own form is an adapter like any other.
TEST_F(ArtifactStoreTest, VirtualTokensLeaveTheRestOfThePositions) {
  const v1::Artifact base = Publish(v1::Artifact::MODEL, TinyModel());
  const int positions = base.model().max_positions();
  ASSERT_GT(positions, 5);
  const auto upload = [&](const std::string& config) {
    const FileContents files = {{"adapter_config.json", config},
                                {"adapter_model.safetensors", TinySafetensors()}};
    auto request = Announce(v1::Artifact::MODEL, files);
    request.set_base_model(base.id());
    return Finish(Upload(request, files));
  };
  const auto prompt = upload(R"({"peft_type":"PROMPT_TUNING","num_virtual_tokens":5})");
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->form(), v1::Artifact::ADAPTER);
  EXPECT_EQ(prompt->model().max_positions(), positions - 5);
  const auto own = upload(R"({"thaw_format":1,"kind":"bottleneck"})");
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_EQ(own->form(), v1::Artifact::ADAPTER);
  EXPECT_EQ(own->model().max_positions(), positions);
  for (const std::string& count :
       {std::string("0"), std::string("\"5\""), std::string("1025"), std::to_string(positions)}) {
    EXPECT_THAT(upload(absl::StrCat(R"({"num_virtual_tokens":)", count, "}")).status().ToString(),
                HasSubstr("num_virtual_tokens"))
        << count;
  }
  EXPECT_THAT(upload("no JSON").status().ToString(), HasSubstr("adapter_config.json"));
}

TEST_F(ArtifactStoreTest, ADeltaIsForOneBase) {
  const v1::Artifact base = Publish(v1::Artifact::MODEL, TinyModel());
  FileContents files = TinyModel();
  files.erase("model.safetensors");
  files["delta.safetensors"] = TinySafetensors();
  const auto upload = [&](const std::string& digest) {
    files["delta.json"] = absl::StrCat(R"({"format_version":1,"base_digest":")", digest,
                                       R"(","tensors":[{"name":"w"}]})");
    auto request = Announce(v1::Artifact::MODEL, files);
    request.set_base_model(base.id());
    return Finish(Upload(request, files));
  };
  const auto delta = upload(base.digest());
  ASSERT_TRUE(delta.ok()) << delta.status();
  EXPECT_EQ(delta->form(), v1::Artifact::DELTA);
  EXPECT_EQ(delta->base_model(), base.id());
  EXPECT_EQ(delta->model().parameters(), 6);
  EXPECT_THAT(upload("0123").status().ToString(),
              HasSubstr("was made for the model with the digest 0123"));
}

TEST_F(ArtifactStoreTest, FinishingAgainGivesTheSameArtifact) {
  const std::string upload = Upload(v1::Artifact::MODEL, TinyModel());
  std::vector<std::string> ids(4);
  std::vector<std::thread> threads;
  for (std::string& id : ids) {
    threads.emplace_back([&] {
      const auto artifact = Finish(upload);
      if (artifact.ok()) id = artifact->id();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(ids, ::testing::Each(ids[0]));
  EXPECT_FALSE(ids[0].empty());
  Restart();
  EXPECT_EQ(Finish(upload)->id(), ids[0]);
  EXPECT_EQ(staging().Query(upload)->files(0).committed_size(),
            static_cast<int64_t>(TinyModel().begin()->second.size()));
}

TEST_F(ArtifactStoreTest, PublishesNothingThatIsIncomplete) {
  const auto upload = staging().Create("ann", Announce(v1::Artifact::MODEL, TinyModel()));
  ASSERT_TRUE(upload.ok());
  const absl::Status status = Finish(upload->id()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), "UPLOAD_INCOMPLETE");
}

TEST_F(ArtifactStoreTest, AWrongHashIsSentAgain) {
  FileContents damaged = TinyModel();
  damaged["tokenizer.json"] = "[]";
  const std::string upload = Upload(Announce(v1::Artifact::MODEL, TinyModel()), damaged);
  const absl::Status status = Finish(upload).status();
  EXPECT_EQ(ReasonOf(status), "HASH_MISMATCH") << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("tokenizer.json"));
  Send(upload, "tokenizer.json", 0, "{}");
  EXPECT_TRUE(Finish(upload).ok());
}

TEST_F(ArtifactStoreTest, RefusesAModelThatCannotBeUnderstood) {
  for (const auto& [config, expected] : std::map<std::string, std::string>{
           {"[]", "model_type"},
           {"{", "no JSON"},
           {R"({"model_type":"bert"})", "num_hidden_layers"},
           {R"({"model_type":"bert","num_hidden_layers":-1})", "has -1"}}) {
    FileContents files = TinyModel();
    files["config.json"] = config;
    const absl::Status status = Finish(Upload(v1::Artifact::MODEL, files)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << config;
    EXPECT_THAT(std::string(status.message()), HasSubstr(expected));
  }
  EXPECT_TRUE(store().Read([](Reader& reader) { return AllArtifactIds(reader); })->empty());
}

TEST_F(ArtifactStoreTest, ADeathBetweenRenameAndCommitIsUndone) {
  const std::string upload = Upload(v1::Artifact::MODEL, TinyModel());
  Stop();
  const std::string id = "model" + upload.substr(upload.rfind('-'));
  ASSERT_TRUE(RenameWithoutReplacing(root() + "/uploads/" + upload, ModelDirectory(id)).ok());
  ASSERT_TRUE(WriteFileAtomically(ModelDirectory(id) + "/manifest.json", "{}").ok());
  Restart();
  EXPECT_FALSE(Exists(ModelDirectory(id)));
  const auto artifact = Finish(upload);
  ASSERT_TRUE(artifact.ok()) << artifact.status();
  EXPECT_EQ(artifact->id(), id);
}

TEST_F(ArtifactStoreTest, SweepsDirectoriesWithoutARow) {
  const v1::Artifact model = Publish(v1::Artifact::MODEL, TinyModel());
  Stop();
  ASSERT_TRUE(MakeDirectories(ModelDirectory("model-0123456789abcdef")).ok());
  ASSERT_TRUE(MakeDirectories(root() + "/trash/model-00").ok());
  Restart();
  EXPECT_FALSE(Exists(ModelDirectory("model-0123456789abcdef")));
  EXPECT_FALSE(Exists(root() + "/trash/model-00"));
  EXPECT_TRUE(Exists(ModelDirectory(model.id())));
}

TEST_F(ArtifactStoreTest, ADeletedArtifactLeavesNothing) {
  const v1::Artifact model = Publish(v1::Artifact::MODEL, TinyModel());
  ASSERT_TRUE(
      store().Write([&](Transaction& t) { return DeleteArtifact(t, "ann", model.id()); }).ok());
  artifacts().WaitUntilIdle();
  EXPECT_FALSE(Exists(ModelDirectory(model.id())));
  EXPECT_EQ(Row(model.id()).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ArtifactStoreTest, BitRotIsFoundBeforeUse) {
  const v1::Artifact model = Publish(v1::Artifact::MODEL, TinyModel());
  Restart();
  for (const v1::File& file : model.files()) {
    std::fstream bytes(ModelDirectory(model.id()) + "/" + file.path(),
                       std::ios::in | std::ios::out | std::ios::binary);
    char byte = 0;
    bytes.get(byte);
    bytes.seekp(0);
    bytes.put(static_cast<char>(byte ^ 1));
    bytes.close();
    const absl::Status status = artifacts().OpenFile(model, file.path()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << file.path();
  }
  EXPECT_EQ(artifacts().OpenFile(model, "manifest.json").status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(ArtifactStoreTest, ReadsADatasetThrough) {
  const v1::Artifact dataset =
      Publish(v1::Artifact::DATASET, {{"data.jsonl",
                                       "{\"text\":\"good\",\"label\":\"a\"}\n"
                                       "{\"text\":\"fine\",\"label\":\"b\"}\n"
                                       "{\"text\":\"good\",\"label\":\"a\"}\n"}});
  EXPECT_EQ(dataset.state(), v1::Artifact::VALIDATING);
  artifacts().WaitUntilIdle();
  const auto row = Row(dataset.id());
  ASSERT_TRUE(row.ok());
  EXPECT_EQ(row->state(), v1::Artifact::READY) << row->state_reason();
  EXPECT_EQ(row->dataset().rows(), 3);
  EXPECT_EQ(row->dataset().duplicate_rows(), 1);
  EXPECT_EQ(row->dataset().text_bytes(), 12);
  ASSERT_EQ(row->dataset().labels_size(), 2);
  EXPECT_EQ(row->dataset().labels(0).label(), "a");
  EXPECT_EQ(row->dataset().labels(0).rows(), 2);
}

TEST_F(ArtifactStoreTest, ReportsEveryBadLine) {
  std::string bytes;
  std::vector<int64_t> bad;
  for (int line = 1; line <= 500; ++line) {
    const bool good = line % 3 != 0;
    bytes += good ? "{\"text\":\"t\",\"label\":1}\n" : "{\"text\":7}\n";
    if (!good) bad.push_back(line);
  }
  const v1::Artifact dataset = Publish(v1::Artifact::DATASET, {{"data.jsonl", bytes}});
  artifacts().WaitUntilIdle();
  const auto row = Row(dataset.id());
  EXPECT_EQ(row->state(), v1::Artifact::REJECTED);
  EXPECT_EQ(row->dataset().bad_lines(), static_cast<int64_t>(bad.size()));
  std::vector<int64_t> reported;
  ASSERT_TRUE(
      ReadDatasetReport(artifacts().ReportPath(dataset.id()), [&](const v1::DatasetIssue& issue) {
        EXPECT_EQ(issue.path(), "data.jsonl");
        EXPECT_FALSE(issue.reason().empty());
        if (reported.empty() || reported.back() != issue.line()) {
          reported.push_back(issue.line());
        }
        return true;
      }).ok());
  EXPECT_EQ(reported, bad);
}

TEST_F(ArtifactStoreTest, ADatasetWithoutLabelsServesForPrediction) {
  const v1::Artifact dataset =
      Publish(v1::Artifact::DATASET, {{"data.jsonl", "{\"text\":\"a\"}\n{\"text\":\"b\"}\n"}});
  artifacts().WaitUntilIdle();
  const auto row = Row(dataset.id());
  EXPECT_EQ(row->state(), v1::Artifact::READY) << row->state_reason();
  EXPECT_EQ(row->dataset().unlabelled_rows(), 2);
  EXPECT_EQ(row->dataset().labels_size(), 0);
  EXPECT_FALSE(Exists(artifacts().ReportPath(dataset.id())));
}

TEST_F(ArtifactStoreTest, ARestartReadsOnWhatWasNotReadThrough) {
  v1::Artifact dataset = Publish(v1::Artifact::DATASET, {{"data.jsonl", "{\"text\":\"a\"}\n"}});
  artifacts().WaitUntilIdle();
  ASSERT_TRUE(store().Write([&](Transaction& t) { return SetArtifactState(t, dataset); }).ok());
  ASSERT_EQ(Row(dataset.id())->state(), v1::Artifact::VALIDATING);
  Restart();
  artifacts().WaitUntilIdle();
  EXPECT_EQ(Row(dataset.id())->state(), v1::Artifact::READY);
}

TEST_F(ArtifactStoreTest, ACheckpointIsCommittedWithItsEvent) {
  const auto checkpoint = FinishCheckpoint(UploadOf(v1::Artifact::CHECKPOINT, BeginAttempt()));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE(Exists(root() + "/checkpoints/" + checkpoint->id() + "/manifest.json"));
  const auto events = Events(checkpoint->job());
  EXPECT_EQ(events.back().checkpoint_committed().checkpoint(), checkpoint->id());
  EXPECT_EQ(events.back().checkpoint_committed().step(), 10);
}

TEST_F(ArtifactStoreTest, AStaleAttemptPublishesNothing) {
  const std::string upload = UploadOf(v1::Artifact::CHECKPOINT, BeginAttempt());
  ASSERT_TRUE(
      store().Write([](Transaction& t) { return LoseAttempt(t, "attempt-1", "gone"); }).ok());
  const absl::Status status = FinishCheckpoint(upload).status();
  EXPECT_EQ(ReasonOf(status), "ATTEMPT_STALE") << status;
  EXPECT_TRUE(ListFiles(root() + "/checkpoints")->empty());
  EXPECT_TRUE(Exists(root() + "/uploads/" + upload + "/state.bin2"));
}

// The directory says by itself whose it is, without the server.
TEST_F(ArtifactStoreTest, AResultsManifestNamesItsJob) {
  const std::string attempt = BeginAttempt();
  v1::FinishUploadRequest request;
  request.set_upload_id(UploadOf(v1::Artifact::RESULT, attempt));
  (*request.mutable_result()->mutable_metrics())["accuracy"] = 0.75;
  const auto result = artifacts().FinishUpload(request);
  ASSERT_TRUE(result.ok()) << result.status();
  const auto manifest = ReadFile(root() + "/results/" + result->id() + "/manifest.json");
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_THAT(*manifest, HasSubstr("\"job\": \"" + result->job() + "\""));
  EXPECT_THAT(*manifest, HasSubstr("\"accuracy\": 0.75"));
  EXPECT_THAT(*manifest, HasSubstr("\"owner\": \"" + result->owner() + "\""));
}

TEST_F(ArtifactStoreTest, TheOutcomeMustFitTheKind) {
  const std::string upload = UploadOf(v1::Artifact::CHECKPOINT, BeginAttempt());
  EXPECT_EQ(Finish(upload).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(FinishCheckpoint(upload).ok());
}

}  // namespace
}  // namespace thaw
