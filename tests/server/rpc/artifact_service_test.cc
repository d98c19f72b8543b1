// Uploads and downloads over the wire, also broken ones.
#include <fstream>

#include "common/base/files.h"
#include "common/base/status.h"
#include "common/rpc/artifact_transfer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/rpc/rpc_fixture.h"

namespace thaw {
namespace {

RpcServerOptions FewTransfers() {
  RpcServerOptions options;
  options.max_transfers = 2;
  options.stall_seconds = 1;
  return options;
}

class ArtifactServiceTest : public ::testing::Test, public RpcFixture {
 protected:
  ArtifactServiceTest() : RpcFixture(FewTransfers()) {}

  TransferOptions Transfer(const std::string& who) {
    TransferOptions options;
    options.prepare = [this, who](grpc::ClientContext* context) {
      AddAccessToken(token(who), context);
    };
    return options;
  }
  std::string LargeFile() {
    std::string bytes;
    for (int i = 0; bytes.size() < (3 << 20); ++i) absl::StrAppend(&bytes, "line ", i, "\n");
    return bytes;
  }
  v1::Artifact PublishLarge() {
    FileContents files = TinyModel();
    files["notes.txt"] = LargeFile();
    const auto model = Publish("ann", v1::Artifact::MODEL, files);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *model : v1::Artifact();
  }
  // Reads at most `messages` messages.
  absl::Status Read(const std::string& id, const std::string& path, int64_t offset,
                    std::string* bytes, int messages = 1 << 30) {
    v1::ReadRequest request;
    request.set_id(id);
    request.set_path(path);
    request.set_offset(offset);
    const auto context = As("ann");
    const auto reader = files().Read(context.get(), request);
    v1::ReadResponse response;
    while (messages-- > 0 && reader->Read(&response)) {
      EXPECT_LE(response.data().size(), 256u << 10);
      *bytes += response.data();
    }
    if (messages < 0) context->TryCancel();
    return FromGrpcStatus(reader->Finish());
  }
  v1::Upload Announced(const std::string& bytes) {
    const auto upload = Call(files(), &v1::ArtifactService::Stub::CreateUpload, "ann",
                             Announce(v1::Artifact::DATASET, {{"data.jsonl", bytes}}));
    EXPECT_TRUE(upload.ok()) << upload.status();
    return upload.ok() ? *upload : v1::Upload();
  }
  absl::StatusOr<int64_t> Write(const std::string& upload, int64_t offset,
                                const std::string& bytes) {
    v1::WriteResponse response;
    const auto context = As("ann");
    const auto writer = files().Write(context.get(), &response);
    v1::WriteRequest request;
    request.set_upload_id(upload);
    request.set_path("data.jsonl");
    request.set_offset(offset);
    request.set_data(bytes);
    writer->Write(request);
    writer->WritesDone();
    const absl::Status status = FromGrpcStatus(writer->Finish());
    if (!status.ok()) return status;
    return response.committed_size();
  }
};

TEST_F(ArtifactServiceTest, WhatGoesInComesOut) {
  const TempDir local;
  FileContents contents = TinyModel();
  contents["notes.txt"] = LargeFile();
  v1::CreateUploadRequest request;
  request.set_kind(v1::Artifact::MODEL);
  std::vector<std::string> paths;
  for (const auto& [path, bytes] : contents) {
    paths.push_back(local.path() + "/" + path);
    ASSERT_TRUE(WriteFileAtomically(paths.back(), bytes).ok());
    const auto file = DescribeFile(paths.back(), path);
    ASSERT_TRUE(file.ok()) << file.status();
    *request.add_files() = *file;
  }
  const auto artifact = UploadArtifact(&files(), request, paths, {}, Transfer("ann"));
  ASSERT_TRUE(artifact.ok()) << artifact.status();
  const std::string copy = local.path() + "/copy";
  ASSERT_TRUE(DownloadArtifact(&files(), *artifact, copy, Transfer("ann")).ok());
  for (const auto& [path, bytes] : contents) EXPECT_EQ(*ReadFile(copy + "/" + path), bytes);
}

TEST_F(ArtifactServiceTest, ReadsFromAnyOffset) {
  const v1::Artifact model = PublishLarge();
  const std::string expected = LargeFile();
  const auto size = static_cast<int64_t>(expected.size());
  for (const int64_t offset : {int64_t{0}, int64_t{1}, int64_t{1} << 20, size - 1, size}) {
    std::string bytes;
    EXPECT_TRUE(Read(model.id(), "notes.txt", offset, &bytes).ok());
    EXPECT_EQ(bytes, expected.substr(static_cast<size_t>(offset)));
  }
  std::string none;
  for (const int64_t offset : {int64_t{-1}, size + 1}) {
    EXPECT_EQ(Read(model.id(), "notes.txt", offset, &none).code(), absl::StatusCode::kOutOfRange);
  }
  for (const char* path : {"../../../access_token", "manifest.json", "", "notes.txt/"}) {
    EXPECT_EQ(Read(model.id(), path, 0, &none).code(), absl::StatusCode::kNotFound) << path;
  }
}

TEST_F(ArtifactServiceTest, AReaderThatLeavesFreesItsSlot) {
  const v1::Artifact model = PublishLarge();
  for (int i = 0; i < 10; ++i) {
    std::string bytes;
    absl::Status status = absl::ResourceExhaustedError("");
    // The server notices the cancelled call before it a moment later.
    while (absl::IsResourceExhausted(status)) status = Read(model.id(), "notes.txt", 0, &bytes, 1);
    EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  }
}

TEST_F(ArtifactServiceTest, GoesOnWhereABrokenWriteEnded) {
  const v1::Upload upload = Announced("0123456789");
  {
    v1::WriteResponse response;
    const auto context = As("ann");
    const auto writer = files().Write(context.get(), &response);
    v1::WriteRequest request;
    request.set_upload_id(upload.id());
    request.set_path("data.jsonl");
    request.set_data("0123");
    ASSERT_TRUE(writer->Write(request));
    context->TryCancel();
    EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  v1::QueryWriteRequest query;
  query.set_upload_id(upload.id());
  const auto state = Call(files(), &v1::ArtifactService::Stub::QueryWrite, "ann", query);
  ASSERT_TRUE(state.ok()) << state.status();
  const int64_t committed = state->files(0).committed_size();
  const auto end = Write(upload.id(), committed,
                         std::string("0123456789").substr(static_cast<size_t>(committed)));
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(*end, 10);
}

TEST_F(ArtifactServiceTest, RefusesWritesThatDoNotFit) {
  const v1::Upload upload = Announced("0123456789");
  EXPECT_EQ(Write(upload.id(), 5, "x").status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Write(upload.id(), 0, "0123456789x").status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Write(upload.id(), 0, std::string((1 << 20) + 1, 'x')).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Write("upload-0000000000000000", 0, "x").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ArtifactServiceTest, BoundsTransfersAndEndsStalledOnes) {
  const v1::Upload upload = Announced("0123456789");
  // Of three that send nothing, two take the slots until the server cancels them, and the third
  // is refused, whichever of them it is. Again if one began after a slot was free again.
  int refused = 0;
  while (refused == 0) {
    std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
    std::vector<std::unique_ptr<grpc::ClientWriter<v1::WriteRequest>>> writers;
    std::vector<v1::WriteResponse> responses(3);
    for (size_t i = 0; i < responses.size(); ++i) {
      contexts.push_back(As(i == 1 ? "bob" : "ann"));
      writers.push_back(files().Write(contexts.back().get(), &responses[i]));
    }
    for (const auto& writer : writers) {
      const absl::Status status = FromGrpcStatus(writer->Finish());
      if (absl::IsResourceExhausted(status)) {
        EXPECT_EQ(ReasonOf(status), "TOO_MANY_TRANSFERS");
        ++refused;
      } else {
        EXPECT_TRUE(absl::IsCancelled(status)) << status;
      }
    }
  }
  EXPECT_LT(refused, 3);
  absl::Status status = Write(upload.id(), 0, "0").status();
  while (absl::IsResourceExhausted(status)) status = Write(upload.id(), 0, "0").status();
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(ArtifactServiceTest, StreamsTheReportOfABadDataset) {
  std::string bytes;
  for (int i = 0; i < 1000; ++i) bytes += "not json\n";
  const auto dataset = Publish("ann", v1::Artifact::DATASET, {{"data.jsonl", bytes}});
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  v1::GetArtifactRequest get;
  get.set_id(dataset->id());
  const auto checked = Call(files(), &v1::ArtifactService::Stub::GetArtifact, "ann", get);
  EXPECT_EQ(checked->state(), v1::Artifact::REJECTED);
  EXPECT_EQ(checked->dataset().bad_lines(), 1000);
  v1::GetDatasetReportRequest request;
  request.set_id(dataset->id());
  const auto context = As("ann");
  const auto reader = files().GetDatasetReport(context.get(), request);
  v1::DatasetIssue issue;
  int64_t line = 0;
  while (reader->Read(&issue)) {
    ASSERT_EQ(issue.line(), ++line);
    EXPECT_EQ(issue.byte_offset() / 9, line - 1);  // where the line stops being JSON
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(line, 1000);
}

TEST_F(ArtifactServiceTest, KeepsWhatAnUnfinishedJobNeeds) {
  const v1::JobSpec spec = Spec("ann");
  const auto job = Submit("ann", spec);
  ASSERT_TRUE(job.ok()) << job.status();
  v1::DeleteArtifactRequest request;
  request.set_id(spec.base_model());
  const auto refused = Call(files(), &v1::ArtifactService::Stub::DeleteArtifact, "ann", request);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), ::testing::HasSubstr(job->id()));
  v1::CancelJobRequest cancel;
  cancel.set_id(job->id());
  ASSERT_TRUE(Call(jobs(), &v1::FineTuneService::Stub::CancelJob, "ann", cancel).ok());
  EXPECT_TRUE(Call(files(), &v1::ArtifactService::Stub::DeleteArtifact, "ann", request).ok());
}

TEST_F(ArtifactServiceTest, DamagedBytesAreNotServed) {
  const v1::Artifact model = PublishLarge();
  Stop();
  {
    std::fstream file(directory() + "/artifacts/models/" + model.id() + "/notes.txt",
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(1 << 20);
    file.put('#');
  }
  Start();
  std::string bytes;
  const absl::Status status = Read(model.id(), "notes.txt", 0, &bytes);
  EXPECT_EQ(ReasonOf(status), "ARTIFACT_DAMAGED") << status;
  EXPECT_TRUE(bytes.empty());
}

}  // namespace
}  // namespace thaw
