#include "client/artifact_client.h"

#include "client/thaw_client.h"
#include "common/base/files.h"
#include "common/base/id.h"
#include "gmock/gmock.h"
#include "tests/client/fake_thaw_server.h"

namespace thaw {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class ArtifactClientTest : public testing::Test {
 protected:
  ArtifactClientTest() : directory_(testing::TempDir() + "/artifacts_" + RandomId()) {
    EXPECT_TRUE(MakeDirectories(directory_).ok());
    ConnectionOptions options;
    options.server = server_.address();
    options.token_file = server_.token_file();
    auto client = ThawClient::Connect(options);
    EXPECT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }

  void Leave(const std::string& path, const std::string& bytes) {
    const std::string whole = directory_ + "/" + path;
    EXPECT_TRUE(MakeDirectories(whole.substr(0, whole.rfind('/'))).ok());
    EXPECT_TRUE(WriteFileAtomically(whole, bytes).ok());
  }
  std::string Bytes(const std::string& path) {
    const auto bytes = ReadFile(directory_ + "/" + path);
    return bytes.ok() ? *bytes : bytes.status().ToString();
  }
  v1::Artifact AddResult(const std::map<std::string, std::string>& files) {
    v1::Artifact result;
    result.set_id("result-1");
    result.set_kind(v1::Artifact::RESULT);
    result.set_display_name("mine");
    server_.AddArtifact(result, files);
    return *artifacts().GetArtifact("result-1");
  }

  ArtifactClient& artifacts() { return client_->artifacts(); }

  const std::string directory_;
  FakeThawServer server_;
  std::unique_ptr<ThawClient> client_;
};

TEST_F(ArtifactClientTest, TakesOfAModelWhatIsRead) {
  for (const char* path :
       {"config.json", "model.safetensors", "vocab.txt", "README.md", "LICENSE",
        "pytorch_model.bin", "onnx/model.onnx", "onnx/config.json", ".gitattributes"}) {
    Leave(path, path);
  }
  std::vector<std::string> skipped;
  const auto files = FilesOfModel(directory_, &skipped);
  ASSERT_TRUE(files.ok()) << files.status();
  std::vector<std::string> paths;
  for (const LocalFile& file : *files) paths.push_back(file.path);
  EXPECT_THAT(paths,
              ElementsAre("LICENSE", "README.md", "config.json", "model.safetensors", "vocab.txt"));
  EXPECT_EQ(skipped.size(), 4u);
}

TEST_F(ArtifactClientTest, ADirectoryWithoutConfigIsNoModel) {
  Leave("model.safetensors", "x");
  EXPECT_THAT(std::string(FilesOfModel(directory_, nullptr).status().message()),
              HasSubstr("config.json"));
}

TEST_F(ArtifactClientTest, ImportsThroughBreaksAndWaitsForTheReport) {
  const std::string bytes(600'000, 'x');
  Leave("data.jsonl", bytes);
  server_.break_transfers_after = 150'000;
  ImportRequest request;
  request.kind = v1::Artifact::DATASET;
  request.display_name = "reviews";
  request.files = {{directory_ + "/data.jsonl", "data.jsonl"}};
  std::vector<int64_t> done;
  const auto artifact = artifacts().Import(request, [&](int64_t bytes_done, int64_t total) {
    EXPECT_EQ(total, 600'000);
    done.push_back(bytes_done);
  });
  ASSERT_TRUE(artifact.ok()) << artifact.status();
  EXPECT_EQ(artifact->state(), v1::Artifact::READY);
  EXPECT_EQ(server_.UploadedBytes("data.jsonl"), bytes);
  EXPECT_GE(server_.CallsOf("Write"), 4);
  ASSERT_FALSE(done.empty());
  EXPECT_EQ(done.back(), 600'000);

  server_.break_transfers_after = 0;
  const int writes = server_.CallsOf("Write");
  ASSERT_TRUE(artifacts().Import(request, nullptr).ok());
  EXPECT_EQ(server_.CallsOf("Write"), writes) << "the same content was sent again";
  request.columns.set_text_column("body");
  ASSERT_TRUE(artifacts().Import(request, nullptr).ok());
  EXPECT_GT(server_.CallsOf("Write"), writes) << "other columns make another dataset";
}

TEST_F(ArtifactClientTest, ADirectoryThatIsThereIsNotSentAgain) {
  ImportRequest request;
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json", "vocab.txt"}) {
    Leave(name, std::string("content of ") + name);
    request.files.push_back({directory_ + "/" + name, name});
  }
  ASSERT_TRUE(artifacts().Import(request, nullptr).ok());
  const int writes = server_.CallsOf("Write");
  ASSERT_TRUE(artifacts().Import(request, nullptr).ok());
  EXPECT_EQ(server_.CallsOf("Write"), writes);
}

TEST_F(ArtifactClientTest, FetchesThroughBreaksAndKeepsWhatIsThere) {
  const std::string weights(10'000, 'w');
  const v1::Artifact result =
      AddResult({{"config.json", "{}"}, {"deep/model.safetensors", weights}});
  server_.break_transfers_after = 3'000;
  ASSERT_TRUE(artifacts().Fetch(result, directory_, nullptr).ok());
  EXPECT_EQ(Bytes("config.json"), "{}");
  EXPECT_EQ(Bytes("deep/model.safetensors"), weights);
  const int reads = server_.CallsOf("Read");
  EXPECT_GE(reads, 4);
  ASSERT_TRUE(artifacts().Fetch(result, directory_, nullptr).ok());
  EXPECT_EQ(server_.CallsOf("Read"), reads) << "what is there and right was fetched again";
}

TEST_F(ArtifactClientTest, APartIsGoneOnWithAndARottenOneReplaced) {
  const std::string weights = std::string(5'000, 'a') + std::string(5'000, 'b');
  const v1::Artifact result = AddResult({{"model.safetensors", weights}});
  for (const std::string& part :
       {weights.substr(0, 7'000), std::string(7'000, 'z'), weights + "more"}) {
    ASSERT_TRUE(RemoveTree(directory_ + "/model.safetensors").ok());
    Leave("model.safetensors.part", part);
    const absl::Status status = artifacts().Fetch(result, directory_, nullptr);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(Bytes("model.safetensors"), weights);
    EXPECT_FALSE(Exists(directory_ + "/model.safetensors.part"));
  }
}

TEST_F(ArtifactClientTest, DamageOnTheWayIsFoundAndMended) {
  const v1::Artifact result = AddResult({{"model.safetensors", std::string(5'000, 'a')}});
  server_.damage_next_read = true;
  ASSERT_TRUE(artifacts().Fetch(result, directory_, nullptr).ok());
  EXPECT_EQ(Bytes("model.safetensors"), std::string(5'000, 'a'));
  server_.damage_next_read = true;
  EXPECT_TRUE(absl::IsDataLoss(artifacts().ReadFile(result, "model.safetensors", 10'000).status()));
}

TEST_F(ArtifactClientTest, AServerCannotWriteOutsideTheDirectory) {
  v1::Artifact result = AddResult({{"config.json", "{}"}});
  result.mutable_files(0)->set_path("../config.json");
  EXPECT_TRUE(absl::IsDataLoss(artifacts().Fetch(result, directory_, nullptr)));
}

TEST_F(ArtifactClientTest, FindsByIdAndByName) {
  AddResult({});
  for (const char* name : {"result-1", "mine"}) {
    const auto found = artifacts().Find(v1::Artifact::RESULT, name);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->id(), "result-1");
  }
  const absl::Status missing = artifacts().Find(v1::Artifact::RESULT, "yours").status();
  EXPECT_TRUE(absl::IsNotFound(missing));
  EXPECT_THAT(std::string(missing.message()), HasSubstr("there are: mine"));
}

}  // namespace
}  // namespace thaw
