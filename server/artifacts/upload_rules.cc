#include "server/artifacts/upload_rules.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/dataset/dataset_columns.h"
#include "common/delta/delta.h"

namespace thaw {
namespace {

constexpr int kMaxUploadFiles = 1000;
constexpr int64_t kMaxFileBytes = int64_t{1} << 44;  // sums of 1,000 stay far below overflow

bool IsPickle(absl::string_view path) {
  for (const char* suffix : {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}) {
    if (absl::EndsWithIgnoreCase(path, suffix)) return true;
  }
  return false;
}

bool IsSha256(absl::string_view text) {
  return text.size() == 64 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

void CheckFiles(const v1::CreateUploadRequest& request, std::vector<FieldViolation>* violations) {
  if (request.files().empty() || request.files_size() > kMaxUploadFiles) {
    violations->push_back({"files", absl::StrCat("are ", request.files_size(), ": give 1 to ",
                                                 kMaxUploadFiles, " files")});
    return;
  }
  std::set<std::string> paths;
  for (int i = 0; i < request.files_size(); ++i) {
    const v1::File& file = request.files(i);
    const std::string field = absl::StrCat("files[", i, "]");
    if (!IsSafeRelativePath(file.path())) {
      violations->push_back(
          {field + ".path",
           "is no relative path of at most four parts made of letters, digits, '.', '_' and '-'"});
      continue;
    }
    if (file.path() == "manifest.json") {
      violations->push_back({field + ".path", "is manifest.json, which the server writes itself"});
    }
    if (!paths.insert(file.path()).second) {
      violations->push_back(
          {field + ".path", absl::StrCat("repeats ", file.path(), ": name each file once")});
    }
    if (file.size() < 0 || file.size() > kMaxFileBytes) {
      violations->push_back({field + ".size", absl::StrCat("is ", file.size(), ": give 0 to ",
                                                           kMaxFileBytes, " bytes")});
    }
    if (!IsSha256(file.sha256())) {
      violations->push_back({field + ".sha256", "is not 64 lower-case hex digits"});
    }
    if (IsPickle(file.path())) {
      violations->push_back(
          {field + ".path",
           absl::StrCat(
               "is ", file.path(),
               ", pickled data, which is never opened: save the weights as safetensors "
               "(save_pretrained(..., safe_serialization=True)) and leave this file out")});
    }
  }
  for (const std::string& path : paths) {
    for (size_t slash = path.find('/'); slash != std::string::npos;
         slash = path.find('/', slash + 1)) {
      if (paths.count(path.substr(0, slash)) > 0) {
        violations->push_back({"files", absl::StrCat(path.substr(0, slash),
                                                     " is both a file and the folder of ", path)});
      }
    }
  }
}

bool HasFile(const v1::CreateUploadRequest& request, absl::string_view suffix, bool whole_name) {
  return std::any_of(request.files().begin(), request.files().end(), [&](const v1::File& file) {
    return whole_name ? file.path() == suffix : absl::EndsWith(file.path(), suffix);
  });
}

void CheckModelFiles(const v1::CreateUploadRequest& request,
                     std::vector<FieldViolation>* violations) {
  const bool adapter = HasFile(request, "adapter_config.json", true);
  const bool delta = HasFile(request, kDeltaFile, true);
  const auto need = [&](const char* name, const char* remedy) {
    if (HasFile(request, name, true)) return;
    violations->push_back({"files", absl::StrCat("lack ", name, ": ", remedy)});
  };
  if (adapter) {
    need("adapter_model.safetensors", "save the adapter as safetensors and upload both files");
  } else {
    need("config.json", "upload a whole Hugging Face directory");
    need("tokenizer.json", "upload a whole Hugging Face directory");
  }
  if (delta) need(kDeltaWeightsFile, "upload the whole directory of the result");
  if (adapter && delta) {
    violations->push_back({"files", "hold both adapter_config.json and delta.json: give one"});
  }
  const bool builds_on = adapter || delta;
  if (builds_on == request.base_model().empty()) {
    violations->push_back(
        {"base_model", builds_on ? "is empty: an adapter or a delta needs the id of the model that "
                                   "it was made for"
                                 : "is set: it belongs to adapters (adapter_config.json) and "
                                   "deltas (delta.json)"});
  }
}

// Whoever puts a delta together with its base writes these.
void CheckDeltaFiles(const v1::CreateUploadRequest& request,
                     std::vector<FieldViolation>* violations) {
  if (!HasFile(request, kDeltaFile, true)) return;
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"}) {
    if (!HasFile(request, name, true)) continue;
    violations->push_back(
        {"files", absl::StrCat("hold both delta.json and ", name, ": leave one of them out")});
  }
}

}  // namespace

absl::Status ValidateUpload(const v1::CreateUploadRequest& request) {
  std::vector<FieldViolation> violations;
  CheckFiles(request, &violations);
  CheckDeltaFiles(request, &violations);
  const bool from_attempt =
      request.kind() == v1::Artifact::RESULT || request.kind() == v1::Artifact::CHECKPOINT;
  switch (request.kind()) {
    case v1::Artifact::MODEL:
      CheckModelFiles(request, &violations);
      break;
    case v1::Artifact::DATASET:
      if (request.files_size() != 1 ||
          FormatOf({}, request.files(0).path()) == v1::DatasetSummary::FORMAT_UNSPECIFIED) {
        violations.push_back({"files",
                              "of a dataset are exactly one file that ends in .jsonl, .csv, .tsv "
                              "or .txt: join several first"});
      }
      break;
    case v1::Artifact::RESULT:
    case v1::Artifact::CHECKPOINT:
      break;
    default:
      violations.push_back({"kind", "is not set: give MODEL or DATASET"});
  }
  if (from_attempt && request.attempt_id().empty()) {
    violations.push_back({"attempt_id", "is empty: only a worker's attempt uploads this kind"});
  }
  if (!from_attempt && !request.attempt_id().empty()) {
    violations.push_back({"attempt_id", "is set: it belongs to results and checkpoints"});
  }
  if (request.kind() != v1::Artifact::MODEL && !request.base_model().empty()) {
    violations.push_back({"base_model", "is set: it belongs to models"});
  }
  if (request.kind() != v1::Artifact::DATASET && request.has_columns()) {
    violations.push_back({"columns", "are set: they belong to datasets"});
  }
  const std::string file = request.files().empty() ? "" : request.files(0).path();
  for (FieldViolation& violation :
       ViolationsIn(request.columns(), FormatOf(request.columns().format(), file))) {
    violations.push_back(std::move(violation));
  }
  if (request.display_name().size() > 120) {
    violations.push_back({"display_name", "is longer than 120 bytes"});
  }
  if (request.request_id().size() > 64) {
    violations.push_back({"request_id", "is longer than 64 bytes"});
  }
  return violations.empty() ? absl::OkStatus() : InvalidFields(violations);
}

absl::string_view KindName(v1::Artifact::Kind kind) {
  switch (kind) {
    case v1::Artifact::MODEL:
      return "model";
    case v1::Artifact::DATASET:
      return "dataset";
    case v1::Artifact::RESULT:
      return "result";
    case v1::Artifact::CHECKPOINT:
      return "checkpoint";
    default:
      return "unknown";
  }
}

}  // namespace thaw
