#include "server/jobs/artifact_table.h"

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gtest/gtest.h"
#include "tests/testing/store_fixture.h"

namespace thaw {
namespace {

using v1::Artifact;

TEST(ArtifactTable, KeepsWhatItIsGiven) {
  StoreFixture fixture;
  Artifact artifact;
  artifact.set_id("dataset-1");
  artifact.set_owner("ann");
  artifact.set_kind(Artifact::DATASET);
  artifact.set_state(Artifact::VALIDATING);
  artifact.add_files()->set_path("train.jsonl");
  auto& store = fixture.store();
  auto inserted = store.Write([&](Transaction& t) { return InsertArtifact(t, artifact); });
  ASSERT_TRUE(inserted.ok());
  EXPECT_TRUE(inserted->has_create_time());
  EXPECT_TRUE(absl::IsAlreadyExists(
      store.Write([&](Transaction& t) { return InsertArtifact(t, artifact); }).status()));
  EXPECT_EQ(store.Read([](Reader& r) { return ValidatingArtifacts(r); })->size(), 1u);

  artifact.set_state(Artifact::READY);
  artifact.mutable_dataset()->set_rows(7);
  ASSERT_TRUE(store.Write([&](Transaction& t) { return SetArtifactState(t, artifact); }).ok());
  fixture.Reopen();
  auto got = fixture.store().Read([](Reader& r) { return GetArtifact(r, "ann", "dataset-1"); });
  EXPECT_EQ(got->state(), Artifact::READY);
  EXPECT_EQ(got->dataset().rows(), 7);
  EXPECT_EQ(got->files_size(), 1);
  EXPECT_TRUE(fixture.store().Read([](Reader& r) { return ValidatingArtifacts(r); })->empty());
  EXPECT_TRUE(absl::IsNotFound(
      fixture.store().Read([](Reader& r) { return GetArtifact(r, "bob", "dataset-1"); }).status()));
}

TEST(ArtifactTable, ListsNewestFirstWithoutFilesAndCheckpoints) {
  StoreFixture fixture;
  for (int i = 0; i < 5; ++i) fixture.AddArtifact(absl::StrCat("model-", i), Artifact::MODEL);
  fixture.AddArtifact("dataset-1", Artifact::DATASET);
  fixture.AddArtifact("checkpoint-1", Artifact::CHECKPOINT);
  fixture.AddArtifact("model-bob", Artifact::MODEL, "bob");
  auto list = [&](const std::string& owner, Artifact::Kind kind, const std::string& token = "") {
    return fixture.store().Read([&](Reader& r) { return ListArtifacts(r, owner, kind, 4, token); });
  };
  const auto first = list("ann", Artifact::MODEL);
  ASSERT_EQ(first->items.size(), 4u);
  EXPECT_EQ(first->items[0].id(), "model-4");
  const auto second = list("ann", Artifact::MODEL, first->next_page_token);
  ASSERT_EQ(second->items.size(), 1u);
  EXPECT_EQ(second->items[0].id(), "model-0");
  EXPECT_TRUE(second->next_page_token.empty());
  EXPECT_TRUE(
      absl::IsInvalidArgument(list("bob", Artifact::MODEL, first->next_page_token).status()));
  EXPECT_EQ(list("", Artifact::KIND_UNSPECIFIED)->items[0].id(), "model-bob");
  EXPECT_TRUE(list("", Artifact::CHECKPOINT)->items.empty());
}

TEST(ArtifactTable, WhatAnUnfinishedJobNeedsStays) {
  StoreFixture fixture;
  fixture.AddArtifacts();
  std::vector<std::string> removed;
  Subscription observer = fixture.store().ObserveRemovedArtifacts(
      [&](const std::vector<std::string>& ids) { removed = ids; });
  const std::string job = fixture.Submit();
  auto remove = [&](const std::string& owner) {
    return fixture.store().Write(
        [&](Transaction& t) { return DeleteArtifact(t, owner, "model-1"); });
  };
  EXPECT_TRUE(absl::IsNotFound(remove("bob")));
  const absl::Status refused = remove("ann");
  ASSERT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_NE(refused.message().find(job), std::string::npos) << refused;
  ASSERT_TRUE(fixture.store().Write([&](Transaction& t) { return CancelJob(t, "", job); }).ok());
  EXPECT_TRUE(remove("ann").ok());
  EXPECT_EQ(removed, std::vector<std::string>{"model-1"});
  EXPECT_EQ(*fixture.store().Read([](Reader& r) { return AllArtifactIds(r); }),
            std::vector<std::string>{"dataset-1"});
}

TEST(Uploads, ARetryFindsTheEarlierOne) {
  StoreFixture fixture;
  UploadRecord upload;
  upload.id = "upload-1";
  upload.owner = "ann";
  upload.expire_micros = 5;
  upload.request.set_request_id("r1");
  upload.request.set_display_name("mail");
  auto create = [&](UploadRecord wanted) {
    return fixture.store().Write([&](Transaction& t) { return CreateUpload(t, wanted); });
  };
  EXPECT_EQ(create(upload)->id, "upload-1");
  upload.id = "upload-2";
  EXPECT_EQ(create(upload)->id, "upload-1");
  upload.request.set_display_name("other");
  EXPECT_TRUE(absl::IsAlreadyExists(create(upload).status()));
  upload.request.set_display_name("mail");
  auto& store = fixture.store();
  ASSERT_TRUE(store.Write([](Transaction& t) { return ExtendUpload(t, "upload-1", 9); }).ok());
  ASSERT_TRUE(
      store.Write([](Transaction& t) { return SetUploadArtifact(t, "upload-1", "model-1"); }).ok());
  const auto got = store.Read([](Reader& r) { return GetUpload(r, "ann", "upload-1"); });
  EXPECT_EQ(got->expire_micros, 9);
  EXPECT_EQ(got->artifact, "model-1");
  EXPECT_EQ(got->request.display_name(), "mail");
  EXPECT_TRUE(absl::IsNotFound(
      store.Read([](Reader& r) { return GetUpload(r, "bob", "upload-1"); }).status()));
  ASSERT_TRUE(store.Write([](Transaction& t) { return DeleteUpload(t, "upload-1"); }).ok());
  EXPECT_EQ(create(upload)->id, "upload-2") << "an expired one begins again";
  EXPECT_EQ(store.Read([](Reader& r) { return AllUploads(r); })->size(), 1u);
}

}  // namespace
}  // namespace thaw
