#include "server/artifacts/upload_rules.h"

#include <functional>

#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/artifacts/artifact_fixture.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

// `expected` is part of one violation, or empty when the upload may begin.
void Check(const v1::CreateUploadRequest& request, const std::string& expected) {
  const absl::Status status = ValidateUpload(request);
  if (expected.empty()) {
    EXPECT_TRUE(status.ok()) << status;
    return;
  }
  std::string all;
  for (const FieldViolation& violation : ViolationsOf(status)) {
    all += violation.field + " " + violation.description + "\n";
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(all, HasSubstr(expected));
}

FileContents With(FileContents files, const std::string& path) {
  files[path] = "x";
  return files;
}

FileContents Without(FileContents files, const std::string& path) {
  files.erase(path);
  return files;
}

TEST(ValidateUpload, TakesWhatIsWhole) {
  Check(Announce(v1::Artifact::MODEL, TinyModel()), "");
  Check(Announce(v1::Artifact::MODEL, With(TinyModel(), "onnx/model.onnx")), "");
  Check(Announce(v1::Artifact::DATASET, {{"data.jsonl", "{}"}}), "");
  // Whether the family can do without weights is known when config.json has come.
  Check(Announce(v1::Artifact::MODEL, Without(TinyModel(), "model.safetensors")), "");
}

TEST(ValidateUpload, NamesWhatIsMissing) {
  Check(Announce(v1::Artifact::MODEL, Without(TinyModel(), "config.json")), "lack config.json");
  Check(Announce(v1::Artifact::MODEL, Without(TinyModel(), "tokenizer.json")),
        "lack tokenizer.json");
  Check(Announce(v1::Artifact::DATASET, {}), "give 1 to 1000");
  Check(Announce(v1::Artifact::DATASET, {{"data.json", ""}}), "ends in .jsonl, .csv, .tsv or .txt");
  Check(Announce(v1::Artifact::DATASET, {{"a.jsonl", ""}, {"b.jsonl", ""}}), "exactly one");
  Check(Announce(v1::Artifact::KIND_UNSPECIFIED, {{"a", ""}}), "kind is not set");
}

TEST(ValidateUpload, WhatBuildsOnAModelIsWholeAndNamesIt) {
  const auto on = [](FileContents files) {
    auto request = Announce(v1::Artifact::MODEL, files);
    request.set_base_model("model-1");
    return request;
  };
  const FileContents adapter = {{"adapter_config.json", "{}"}, {"adapter_model.safetensors", ""}};
  Check(on(adapter), "");
  Check(Announce(v1::Artifact::MODEL, adapter), "base_model is empty");
  Check(on(Without(adapter, "adapter_model.safetensors")), "lack adapter_model.safetensors");
  FileContents delta = Without(TinyModel(), "model.safetensors");
  delta["delta.json"] = delta["delta.safetensors"] = "";
  Check(on(delta), "");
  Check(on(Without(delta, "delta.safetensors")), "lack delta.safetensors");
  Check(on(Without(delta, "config.json")), "lack config.json");
  Check(on(With(delta, "model.safetensors")), "both delta.json and model.safetensors");
  FileContents both = With(delta, "adapter_config.json");
  both["adapter_model.safetensors"] = "";
  Check(on(both), "both adapter_config.json and delta.json");
  Check(on(TinyModel()), "base_model is set");
}

TEST(ValidateUpload, NeverTakesPickles) {
  for (const char* name : {"pytorch_model.bin", "model.pt", "model.PTH", "x.pkl", "a/last.ckpt"}) {
    Check(Announce(v1::Artifact::MODEL, With(TinyModel(), name)), "safetensors");
  }
}

TEST(ValidateUpload, TakesNoNameThatLeadsElsewhere) {
  for (const char* name : {"../up", "/etc/passwd", "a/../b", "..", "", "a//b", "a/b/c/d/e", "-rf",
                           ".hidden", "a b", "a\\b", "%2e%2e", "a\n"}) {
    Check(Announce(v1::Artifact::MODEL, With(TinyModel(), name)), "relative path");
  }
  Check(Announce(v1::Artifact::MODEL, With(TinyModel(), "manifest.json")), "writes itself");
  Check(Announce(v1::Artifact::MODEL, With(TinyModel(), "config.json/x")), "both a file and");
}

TEST(ValidateUpload, ChecksSizesAndHashes) {
  auto request = Announce(v1::Artifact::DATASET, {{"data.jsonl", "{}"}});
  request.mutable_files(0)->set_size(-1);
  Check(request, "files[0].size is -1");
  request = Announce(v1::Artifact::DATASET, {{"data.jsonl", "{}"}});
  request.mutable_files(0)->set_sha256("ABC");
  Check(request, "files[0].sha256");
  request = Announce(v1::Artifact::DATASET, {{"data.jsonl", "{}"}});
  *request.add_files() = request.files(0);
  Check(request, "repeats data.jsonl");
}

TEST(ValidateUpload, KeepsAttemptsAndUsersApart) {
  Check(Announce(v1::Artifact::CHECKPOINT, {{"state", "x"}}), "attempt_id is empty");
  auto request = Announce(v1::Artifact::DATASET, {{"data.jsonl", "{}"}});
  request.set_attempt_id("a");
  Check(request, "attempt_id is set");
  request = Announce(v1::Artifact::MODEL, TinyModel());
  request.mutable_columns()->set_text_column("text");
  Check(request, "columns are set");
  request = Announce(v1::Artifact::DATASET, {{"data.jsonl", "{}"}});
  request.mutable_columns()->set_text_column("label");
  Check(request, "columns.label_column names the same column as text_column");
}

TEST(ValidateUpload, KnowsTheColumnsOfEveryTask) {
  const auto check = [](const std::function<void(v1::DatasetColumns*)>& set,
                        const std::string& expected) {
    auto request = Announce(v1::Artifact::DATASET, {{"data.jsonl", "{}"}});
    set(request.mutable_columns());
    Check(request, expected);
  };
  using Rows = v1::DatasetSummary;
  for (int task = 0; task <= 6; ++task) {
    check([&](auto* columns) { columns->set_task(static_cast<Rows::Task>(task)); }, "");
  }
  check([](auto* columns) { columns->set_task(static_cast<Rows::Task>(7)); },
        "columns.task 7 is not known: give CLASSIFICATION");
  check([](auto* columns) { columns->set_text_pair_column("hypothesis"); }, "");
  check([](auto* columns) { columns->set_prompt_column("p"); },
        "columns.prompt_column is set, but rows of CLASSIFICATION have no such column");
  check(
      [](auto* columns) {
        columns->set_task(Rows::COMPLETION);
        columns->set_prompt_column("p");
        columns->set_messages_column("m");
      },
      "columns.messages_column is set beside prompt_column");
  check(
      [](auto* columns) {
        columns->set_task(Rows::SEQUENCE_TO_SEQUENCE);
        columns->set_target_column("source");
      },
      "names the same column as target_column");
  check([](auto* columns) { columns->set_text_column(std::string(121, 'x')); }, "120 bytes");
}

}  // namespace
}  // namespace thaw
