// An ArtifactStore over a job store, both in directories of their own, and uploads in one line.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "gtest/gtest.h"
#include "server/artifacts/artifact_store.h"
#include "tests/testing/store_fixture.h"

namespace thaw {

using FileContents = std::map<std::string, std::string>;  // by path

// A safetensors file with one tensor of `shape`, such as "[2,3]".
inline std::string TinySafetensors(const std::string& shape = "[2,3]") {
  const std::string header =
      absl::StrCat(R"({"w":{"dtype":"F32","shape":)", shape, R"(,"data_offsets":[0,24]}})");
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(header.size());
  return bytes + header + std::string(24, 'x');
}

inline FileContents TinyModel() {
  return {
      {"config.json",
       R"({"model_type":"bert","num_hidden_layers":2,"hidden_size":8,"max_position_embeddings":64})"},
      {"model.safetensors", TinySafetensors()},
      {"tokenizer.json", "{}"}};
}

inline v1::CreateUploadRequest Announce(v1::Artifact::Kind kind, const FileContents& files) {
  v1::CreateUploadRequest request;
  request.set_kind(kind);
  for (const auto& [path, bytes] : files) {
    v1::File* file = request.add_files();
    file->set_path(path);
    file->set_size(static_cast<int64_t>(bytes.size()));
    file->set_sha256(Sha256Hex(bytes));
  }
  return request;
}

class ArtifactFixture : public StoreFixture {
 public:
  ArtifactFixture() { Restart(); }

  // As after a restart of the server; the job store stays.
  void Restart() {
    artifacts_.reset();
    ArtifactStoreOptions options;
    options.directory = root();
    options.min_free_bytes = 0;
    if (free_bytes.has_value()) {
      options.free_bytes = [this](const std::string&) { return *free_bytes; };
    }
    auto opened = ArtifactStore::Open(options, store(), clock());
    ASSERT_TRUE(opened.ok()) << opened.status();
    artifacts_ = *std::move(opened);
  }
  void Stop() { artifacts_.reset(); }

  std::string root() const { return directory() + "/artifacts"; }
  ArtifactStore& artifacts() { return *artifacts_; }
  UploadStaging& staging() { return artifacts_->staging(); }

  // What the disk has free, said from the next Restart on; unset: the truth.
  std::optional<int64_t> free_bytes;

  // Announces and sends everything; gives the upload's id.
  std::string Upload(const v1::CreateUploadRequest& request, const FileContents& files,
                     const std::string& owner = "ann") {
    const auto upload = staging().Create(owner, request);
    EXPECT_TRUE(upload.ok()) << upload.status();
    if (!upload.ok()) return "";
    for (const auto& [path, bytes] : files) Send(upload->id(), path, 0, bytes);
    return upload->id();
  }
  std::string Upload(v1::Artifact::Kind kind, const FileContents& files) {
    return Upload(Announce(kind, files), files);
  }
  void Send(const std::string& upload, const std::string& path, int64_t offset,
            const std::string& bytes) {
    auto writer = staging().StartWrite(upload, path, offset);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE((*writer)->Append(bytes).ok());
    const auto committed = (*writer)->Commit();
    ASSERT_TRUE(committed.ok()) << committed.status();
    ASSERT_EQ(*committed, offset + static_cast<int64_t>(bytes.size()));
  }

  absl::StatusOr<v1::Artifact> Finish(const std::string& upload) {
    v1::FinishUploadRequest request;
    request.set_upload_id(upload);
    return artifacts_->FinishUpload(request);
  }
  absl::StatusOr<v1::Artifact> Row(const std::string& id) {
    return store().Read([&](Reader& reader) { return GetArtifact(reader, "", id); });
  }

 private:
  std::unique_ptr<ArtifactStore> artifacts_;
};

}  // namespace thaw
