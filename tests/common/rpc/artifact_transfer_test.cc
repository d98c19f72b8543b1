#include "common/rpc/artifact_transfer.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "common/base/files.h"
#include "common/base/sha256.h"
#include "common/base/unique_fd.h"
#include "common/rpc/channel.h"
#include "tests/common/rpc/fake_artifact_service.h"
#include "tests/testing/temp_dir.h"

namespace thaw {
namespace {

// Bytes of which no two stretches are alike.
std::string Bytes(size_t size, uint32_t state) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<char>(state >> 24);
  }
  return bytes;
}

class ArtifactTransferTest : public ::testing::Test {
 protected:
  ArtifactTransferTest() : stub_(service_.Stub()) {
    artifact_.set_id("model-1");
    AddFile("config.json", "{}");
    AddFile("weights/model.safetensors", Bytes(1'000'000, 1));
    AddFile("empty", "");
    options_.retry_seconds = 5;
  }

  // To the artifact that is downloaded, and to the server.
  void AddFile(const std::string& path, const std::string& bytes) {
    v1::File* file = artifact_.add_files();
    file->set_path(path);
    file->set_size(static_cast<int64_t>(bytes.size()));
    file->set_sha256(Sha256Hex(bytes));
    total_ += file->size();
    service_.AddFile(artifact_.id(), path, bytes);
  }

  std::string Into() const { return directory_.path() + "/into"; }
  absl::Status Download() { return DownloadArtifact(stub_.get(), artifact_, Into(), options_); }

  void ExpectWhole() {
    const auto files = ListFiles(Into());
    ASSERT_TRUE(files.ok()) << files.status();
    EXPECT_EQ(files->size(), static_cast<size_t>(artifact_.files_size()));
    for (const v1::File& file : artifact_.files()) {
      const auto digest = DigestFile(Into() + "/" + file.path());
      ASSERT_TRUE(digest.ok()) << digest.status();
      EXPECT_EQ(digest->sha256, file.sha256()) << file.path();
    }
  }

  // Uploads two files of the directory.
  absl::StatusOr<v1::Artifact> Upload() {
    v1::CreateUploadRequest request;
    request.set_kind(v1::Artifact::MODEL);
    std::vector<std::string> paths;
    int number = 0;
    for (const char* name : {"a.json", "b.safetensors", "empty.txt"}) {
      paths.push_back(directory_.path() + "/" + name);
      const std::string bytes = Bytes(number == 2 ? 0 : 700'000, static_cast<uint32_t>(number));
      ++number;
      EXPECT_TRUE(WriteFileAtomically(paths.back(), bytes).ok());
      const auto file = DescribeFile(paths.back(), name);
      EXPECT_TRUE(file.ok()) << file.status();
      *request.add_files() = *file;
    }
    return UploadArtifact(stub_.get(), request, paths, {}, options_);
  }
  void ExpectUploaded() {
    EXPECT_EQ(service_.Uploaded("a.json"), Bytes(700'000, 0));
    EXPECT_EQ(service_.Uploaded("b.safetensors"), Bytes(700'000, 1));
    EXPECT_EQ(service_.uploads(), 1);
  }

  TempDir directory_;
  FakeArtifactService service_;
  std::unique_ptr<v1::ArtifactService::Stub> stub_;
  v1::Artifact artifact_;
  TransferOptions options_;
  int64_t total_ = 0;
};

TEST_F(ArtifactTransferTest, DownloadsEveryFileAndTellsProgress) {
  int64_t last_done = -1;
  options_.progress = [&](int64_t done, int64_t total) {
    EXPECT_GE(done, last_done);
    EXPECT_EQ(total, total_);
    last_done = done;
  };
  ASSERT_TRUE(Download().ok());
  ExpectWhole();
  EXPECT_EQ(last_done, total_);
}

TEST_F(ArtifactTransferTest, ADownloadGoesOnWhereItBroke) {
  FakeArtifactService::Faults faults;
  faults.break_reads = 2;
  faults.end_reads_early = 1;
  service_.SetFaults(faults);
  ASSERT_TRUE(Download().ok());
  ExpectWhole();
  // What has come is not asked for again.
  EXPECT_EQ(service_.bytes_read(), total_);
}

TEST_F(ArtifactTransferTest, ALaterCallGoesOnWithThePart) {
  FakeArtifactService::Faults faults;
  faults.break_reads = 1'000'000;
  faults.break_after = 100'000;
  service_.SetFaults(faults);
  bool stop = false;
  options_.progress = [&](int64_t done, int64_t) { stop = done > 250'000; };
  options_.cancelled = [&] { return stop; };
  EXPECT_EQ(Download().code(), absl::StatusCode::kCancelled);
  options_.cancelled = nullptr;
  options_.progress = nullptr;
  service_.SetFaults({});
  const int64_t before = service_.bytes_read();
  EXPECT_GE(before, 250'000);
  ASSERT_TRUE(Download().ok());
  ExpectWhole();
  EXPECT_LE(service_.bytes_read(), total_ + 100'000);
}

TEST_F(ArtifactTransferTest, FilesThatAreThereAreKept) {
  ASSERT_TRUE(Download().ok());
  const int reads = service_.reads();
  ASSERT_TRUE(Download().ok());
  EXPECT_EQ(service_.reads(), reads);
  // One that was changed since is not.
  ASSERT_TRUE(WriteFileAtomically(Into() + "/config.json", "[]").ok());
  ASSERT_TRUE(Download().ok());
  ExpectWhole();
}

TEST_F(ArtifactTransferTest, BytesThatWentWrongOnceAreFetchedAgain) {
  FakeArtifactService::Faults faults;
  faults.corrupt_reads = 1;
  service_.SetFaults(faults);
  ASSERT_TRUE(Download().ok());
  ExpectWhole();
}

TEST_F(ArtifactTransferTest, AWrongHashIsDataLossAndLeavesNothing) {
  FakeArtifactService::Faults faults;
  faults.corrupt_reads = 1'000'000;
  service_.SetFaults(faults);
  const absl::Status status = Download();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_NE(status.message().find("config.json"), absl::string_view::npos) << status;
  EXPECT_FALSE(Exists(Into() + "/config.json"));
  EXPECT_FALSE(Exists(Into() + "/config.json.part"));
}

TEST_F(ArtifactTransferTest, MoreBytesThanAnnouncedAreRefused) {
  FakeArtifactService::Faults faults;
  faults.extra_bytes = 1;
  service_.SetFaults(faults);
  EXPECT_EQ(Download().code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(Exists(Into() + "/config.json"));
}

TEST_F(ArtifactTransferTest, HostileNamesFromTheServerLeadNowhere) {
  for (const std::string& path :
       {std::string("../escaped"), std::string("/tmp/escaped"), std::string("a/../../escaped"),
        std::string(""), std::string("."), std::string("a//b"), std::string("a\0b", 3),
        std::string("-rf")}) {
    v1::Artifact hostile;
    hostile.set_id("model-2");
    v1::File* file = hostile.add_files();
    file->set_path(path);
    file->set_size(1);
    file->set_sha256(Sha256Hex("x"));
    service_.AddFile("model-2", path, "x");
    EXPECT_EQ(DownloadArtifact(stub_.get(), hostile, Into(), options_).code(),
              absl::StatusCode::kDataLoss)
        << path;
  }
  EXPECT_EQ(service_.reads(), 0);
  EXPECT_FALSE(Exists(directory_.path() + "/escaped"));
}

TEST_F(ArtifactTransferTest, ALinkInTheDirectoryIsNotWrittenThrough) {
  const std::string outside = directory_.path() + "/outside";
  ASSERT_TRUE(WriteFileAtomically(outside, "untouched").ok());
  ASSERT_TRUE(MakeDirectories(Into()).ok());
  ASSERT_EQ(symlink(outside.c_str(), (Into() + "/config.json.part").c_str()), 0);
  EXPECT_FALSE(Download().ok());
  ASSERT_EQ(unlink((Into() + "/config.json.part").c_str()), 0);
  ASSERT_EQ(symlink(outside.c_str(), (Into() + "/config.json").c_str()), 0);
  ASSERT_TRUE(Download().ok());
  ExpectWhole();
  EXPECT_EQ(*ReadFile(outside), "untouched");
}

TEST_F(ArtifactTransferTest, TwoDownloadsDoNotWriteOneFile) {
  ASSERT_TRUE(MakeDirectories(Into()).ok());
  const UniqueFd other(
      open((Into() + "/config.json.part").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  ASSERT_EQ(flock(other.get(), LOCK_EX), 0);
  const absl::Status status = Download();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("another download writes it"));
  ASSERT_EQ(flock(other.get(), LOCK_UN), 0);
  ASSERT_TRUE(Download().ok());
  ExpectWhole();
}

TEST_F(ArtifactTransferTest, WhatCannotBeMendedIsNotTriedAgain) {
  for (const grpc::StatusCode code :
       {grpc::StatusCode::NOT_FOUND, grpc::StatusCode::PERMISSION_DENIED,
        grpc::StatusCode::UNAUTHENTICATED, grpc::StatusCode::ABORTED}) {
    FakeArtifactService::Faults faults;
    faults.read_code = code;
    service_.SetFaults(faults);
    const int before = service_.reads();
    EXPECT_EQ(static_cast<int>(Download().code()), static_cast<int>(code));
    EXPECT_EQ(service_.reads(), before + 1);
  }
}

TEST_F(ArtifactTransferTest, AServerThatStaysAwayEndsTheDownload) {
  FakeArtifactService::Faults faults;
  faults.read_code = grpc::StatusCode::UNAVAILABLE;
  service_.SetFaults(faults);
  options_.retry_seconds = 0.2;
  EXPECT_EQ(Download().code(), absl::StatusCode::kUnavailable);
  EXPECT_GT(service_.reads(), 1);
}

TEST_F(ArtifactTransferTest, UploadsWithTheCallersToken) {
  options_.prepare = [](grpc::ClientContext* context) { AddAccessToken("secret", context); };
  const auto artifact = Upload();
  ASSERT_TRUE(artifact.ok()) << artifact.status();
  EXPECT_EQ(artifact->id(), "model-1");
  ExpectUploaded();
  EXPECT_EQ(service_.last_authorization(), "Bearer secret");
}

TEST_F(ArtifactTransferTest, AnUploadGoesOnWhereItBroke) {
  FakeArtifactService::Faults faults;
  faults.break_writes = 3;
  faults.refuse_creates = 2;
  service_.SetFaults(faults);
  const auto artifact = Upload();
  ASSERT_TRUE(artifact.ok()) << artifact.status();
  ExpectUploaded();
}

TEST_F(ArtifactTransferTest, AFileThatShrinksWhileItIsSentIsAnError) {
  v1::CreateUploadRequest request;
  const std::string path = directory_.path() + "/shrinks";
  ASSERT_TRUE(WriteFileAtomically(path, Bytes(1000, 3)).ok());
  *request.add_files() = *DescribeFile(path, "shrinks");
  ASSERT_EQ(truncate(path.c_str(), 10), 0);
  const auto artifact = UploadArtifact(stub_.get(), request, {path}, {}, options_);
  EXPECT_EQ(artifact.status().code(), absl::StatusCode::kFailedPrecondition) << artifact.status();
}

TEST_F(ArtifactTransferTest, AnUploadStopsWhenToldTo) {
  options_.cancelled = [] { return true; };
  EXPECT_EQ(Upload().status().code(), absl::StatusCode::kCancelled);
}

TEST_F(ArtifactTransferTest, DescribesFiles) {
  const std::string path = directory_.path() + "/file";
  ASSERT_TRUE(WriteFileAtomically(path, "abc").ok());
  const auto file = DescribeFile(path, "weights/file");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->path(), "weights/file");
  EXPECT_EQ(file->size(), 3);
  EXPECT_EQ(file->sha256(), Sha256Hex("abc"));
  EXPECT_EQ(DescribeFile(path + "x", "file").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace thaw
