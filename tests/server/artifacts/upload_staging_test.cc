#include "server/artifacts/upload_staging.h"

#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/artifacts/artifact_fixture.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

class UploadStagingTest : public ::testing::Test, public ArtifactFixture {
 protected:
  std::string CreateDataset(const std::string& bytes, const std::string& request_id = "") {
    auto request = Announce(v1::Artifact::DATASET, {{"data.jsonl", bytes}});
    request.set_request_id(request_id);
    const auto upload = staging().Create("ann", request);
    EXPECT_TRUE(upload.ok()) << upload.status();
    return upload.ok() ? upload->id() : "";
  }
  int64_t Committed(const std::string& upload) {
    const auto state = staging().Query(upload);
    EXPECT_TRUE(state.ok()) << state.status();
    return state.ok() ? state->files(0).committed_size() : -1;
  }
};

TEST_F(UploadStagingTest, GoesOnWhereItWas) {
  const std::string upload = CreateDataset("0123456789");
  Send(upload, "data.jsonl", 0, "0123");
  EXPECT_EQ(Committed(upload), 4);
  Restart();
  EXPECT_EQ(Committed(upload), 4);
  Send(upload, "data.jsonl", 4, "456789");
  EXPECT_EQ(Committed(upload), 10);
  const auto artifact = Finish(upload);
  ASSERT_TRUE(artifact.ok()) << artifact.status();
  EXPECT_EQ(*ReadFile(root() + "/datasets/" + artifact->id() + "/data.jsonl"), "0123456789");
}

TEST_F(UploadStagingTest, KeepsWhatABrokenStreamLeft) {
  const std::string upload = CreateDataset("0123456789");
  {
    auto writer = staging().StartWrite(upload, "data.jsonl", 0);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->Append("01234").ok());
  }
  EXPECT_EQ(Committed(upload), 5);
}

TEST_F(UploadStagingTest, RefusesOffsetsBeyondWhatItHas) {
  const std::string upload = CreateDataset("0123456789");
  Send(upload, "data.jsonl", 0, "0123");
  for (const int64_t offset : {int64_t{-1}, int64_t{5}, int64_t{1} << 60}) {
    const absl::Status status = staging().StartWrite(upload, "data.jsonl", offset).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
    EXPECT_THAT(std::string(status.message()), HasSubstr("4 bytes"));
  }
  Send(upload, "data.jsonl", 2, "23");
  EXPECT_EQ(Committed(upload), 4);
}

TEST_F(UploadStagingTest, ANewerWriteEndsAnOlderOne) {
  const std::string upload = CreateDataset("0123456789");
  auto older = staging().StartWrite(upload, "data.jsonl", 0);
  ASSERT_TRUE((*older)->Append("0123").ok());
  auto newer = staging().StartWrite(upload, "data.jsonl", 4);
  ASSERT_TRUE(newer.ok()) << newer.status();
  const absl::Status status = (*older)->Append("XXXX");
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(status), "WRITE_REPLACED");
  ASSERT_TRUE((*newer)->Append("456789").ok());
  EXPECT_EQ(*(*newer)->Commit(), 10);
  older->reset();
  newer->reset();
  EXPECT_TRUE(Finish(upload).ok());
}

TEST_F(UploadStagingTest, WhatIsWrittenAgainIsWhatCounts) {
  const std::string right = CreateDataset("0123456789");
  Send(right, "data.jsonl", 0, "0123498765");
  Send(right, "data.jsonl", 5, "56789");
  EXPECT_TRUE(Finish(right).ok());
  const std::string wrong = CreateDataset("0123456789");
  Send(wrong, "data.jsonl", 0, "0123456789");
  Send(wrong, "data.jsonl", 5, "98765");
  EXPECT_EQ(ReasonOf(Finish(wrong).status()), "HASH_MISMATCH");
  // It was emptied: from the start it can still come right.
  EXPECT_EQ(Committed(wrong), 0);
  Send(wrong, "data.jsonl", 0, "012345");
  Send(wrong, "data.jsonl", 6, "6789");
  EXPECT_TRUE(Finish(wrong).ok());
}

TEST_F(UploadStagingTest, WhatAnEarlierProcessWroteIsReadAgain) {
  const std::string upload = CreateDataset("0123456789");
  Send(upload, "data.jsonl", 0, "01XX");
  Restart();
  Send(upload, "data.jsonl", 4, "456789");
  EXPECT_EQ(ReasonOf(Finish(upload).status()), "HASH_MISMATCH");
}

TEST_F(UploadStagingTest, TakesNoMoreThanAnnounced) {
  const std::string upload = CreateDataset("0123");
  auto writer = staging().StartWrite(upload, "data.jsonl", 0);
  EXPECT_EQ((*writer)->Append("01234").code(), absl::StatusCode::kOutOfRange);
}

TEST_F(UploadStagingTest, ARepeatedRequestGivesTheSameUpload) {
  const std::string first = CreateDataset("0123", "request-1");
  Send(first, "data.jsonl", 0, "01");
  EXPECT_EQ(CreateDataset("0123", "request-1"), first);
  EXPECT_EQ(Committed(first), 2);
  Restart();
  EXPECT_EQ(CreateDataset("0123", "request-1"), first);
  auto other = Announce(v1::Artifact::DATASET, {{"data.jsonl", "other"}});
  other.set_request_id("request-1");
  EXPECT_EQ(staging().Create("ann", other).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(staging().Create("bob", other).ok());
}

TEST_F(UploadStagingTest, ExpiresWithoutAWrite) {
  const std::string upload = CreateDataset("0123");
  const std::string other = CreateDataset("0123");
  clock().AdvanceSeconds(20 * 3600);
  staging().RemoveExpired();
  Send(other, "data.jsonl", 0, "01");
  clock().AdvanceSeconds(5 * 3600);
  staging().RemoveExpired();
  EXPECT_EQ(staging().Query(upload).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(Exists(root() + "/uploads/" + upload));
  EXPECT_EQ(Committed(other), 2);
  Restart();
  EXPECT_EQ(Committed(other), 2);
}

TEST_F(UploadStagingTest, BoundsTheUnfinishedUploadsOfAnOwner) {
  for (int i = 0; i < 64; ++i) CreateDataset("0123");
  const auto request = Announce(v1::Artifact::DATASET, {{"data.jsonl", "0123"}});
  const absl::Status status = staging().Create("ann", request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(staging().Create("bob", request).ok());
}

TEST_F(UploadStagingTest, PromisesNoSpaceThatIsNotThere) {
  auto request = Announce(v1::Artifact::DATASET, {{"data.jsonl", "0123"}});
  // More than the disk of any machine that runs this.
  request.mutable_files(0)->set_size(int64_t{1} << 44);
  const absl::Status status = staging().Create("ann", request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "DISK_FULL");
  // Other programs write to that disk too, so what just fits is asked of one that nobody else uses.
  free_bytes = 1000;
  Restart();
  request.mutable_files(0)->set_size(500);
  const auto half = staging().Create("ann", request);
  EXPECT_TRUE(half.ok()) << half.status();
  request.mutable_files(0)->set_size(501);
  const absl::Status rest = staging().Create("bob", request).status();
  EXPECT_EQ(rest.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(rest), "DISK_FULL");
}

TEST_F(UploadStagingTest, NoOwnerKeepsAllTheRoomForUploads) {
  free_bytes = 1000;
  Restart();
  const auto create = [&](const std::string& owner, int64_t size, const std::string& id = "") {
    auto request = Announce(v1::Artifact::DATASET, {{"data.jsonl", "0123"}});
    request.mutable_files(0)->set_size(size);
    request.set_request_id(id);
    return staging().Create(owner, request);
  };
  const auto first = create("ann", 400, "one");
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status refused = create("ann", 101).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused), "UPLOAD_QUOTA");
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("hold 400 bytes, this needs 101 more, and one owner may hold 500"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--owner_upload_share"));
  const auto again = create("ann", 400, "one");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->id(), first->id()) << "a repeated request has its room";
  EXPECT_EQ(ReasonOf(create("bob", 301).status()), "UPLOAD_QUOTA") << "half of what is left";
  EXPECT_TRUE(create("bob", 300).ok());
  Restart();
  EXPECT_EQ(ReasonOf(create("ann", 101).status()), "UPLOAD_QUOTA") << "a restart forgets nothing";
  EXPECT_TRUE(create("admin", 300).ok()) << "whoever runs the server needs no share";
  EXPECT_EQ(ReasonOf(create("admin", 1).status()), "DISK_FULL");
}

// Else an owner could fill the disk by halves.
TEST_F(UploadStagingTest, WhatHasComeOfAnUploadStillCountsForItsOwner) {
  free_bytes = 1000;
  Restart();
  const std::string first = CreateDataset(std::string(400, 'x'));
  Send(first, "data.jsonl", 0, std::string(400, 'x'));
  free_bytes = 600;
  auto more = Announce(v1::Artifact::DATASET, {{"data.jsonl", std::string(101, 'y')}});
  EXPECT_EQ(ReasonOf(staging().Create("ann", more).status()), "UPLOAD_QUOTA");
  EXPECT_TRUE(staging().Create("bob", more).ok());
  Restart();
  EXPECT_EQ(ReasonOf(staging().Create("ann", more).status()), "UPLOAD_QUOTA") << "also after it";
  ASSERT_TRUE(Finish(first).ok());
  EXPECT_TRUE(staging().Create("ann", more).ok()) << "what is finished is no upload";
}

// Of two at a time one has the row, and it must have the room too.
TEST_F(UploadStagingTest, EqualRequestsAtATimeHoldRoomOnce) {
  free_bytes = 1000;
  Restart();
  for (int round = 0; round < 50; ++round) {
    auto request = Announce(v1::Artifact::DATASET, {{"data.jsonl", std::string(700, 'x')}});
    request.set_request_id(absl::StrCat("request-", round));
    std::vector<std::thread> threads;
    std::vector<absl::StatusOr<v1::Upload>> uploads(4, absl::UnknownError("not called"));
    for (auto& upload : uploads) {
      threads.emplace_back([&] { upload = staging().Create("admin", request); });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& upload : uploads) {
      ASSERT_TRUE(upload.ok()) << upload.status();
      EXPECT_EQ(upload->id(), uploads[0]->id());
    }
    auto other = Announce(v1::Artifact::DATASET, {{"data.jsonl", std::string(301, 'x')}});
    EXPECT_EQ(ReasonOf(staging().Create("admin", other).status()), "DISK_FULL") << round;
    clock().AdvanceSeconds(25 * 3600);
    staging().RemoveExpired();
  }
}

TEST_F(UploadStagingTest, KeepsWhatCheckpointsNeed) {
  free_bytes = 1000;
  Restart();
  artifacts().budget().KeepForCheckpoints(900);
  auto request = Announce(v1::Artifact::DATASET, {{"data.jsonl", "0123"}});
  request.mutable_files(0)->set_size(101);
  EXPECT_EQ(ReasonOf(staging().Create("admin", request).status()), "DISK_FULL");
  request.mutable_files(0)->set_size(100);
  EXPECT_TRUE(staging().Create("admin", request).ok());
  EXPECT_TRUE(artifacts().budget().CheckNotShort().ok());
  artifacts().budget().KeepForCheckpoints(1001);
  EXPECT_EQ(ReasonOf(artifacts().budget().CheckNotShort()), "DISK_FULL");
}

TEST_F(UploadStagingTest, SweepsWhatNobodyAnnounced) {
  Stop();
  ASSERT_TRUE(MakeDirectories(root() + "/uploads/upload-0000000000000000").ok());
  Restart();
  EXPECT_FALSE(Exists(root() + "/uploads/upload-0000000000000000"));
}

}  // namespace
}  // namespace thaw
